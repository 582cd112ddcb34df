//! The pretend nft and the pretend connection tracking: a table that is there or not, and counts of marked connections.

use super::{Channel, FakeKernel};
use crate::config::Config;
use crate::engine::action::Token;
use crate::engine::event::{Event, NftFailure};
use crate::types::{Errno, Family, UplinkSlot};

/// What becomes of our nft table and of the connections that it marks.
#[derive(Clone, Debug, Default)]
pub struct FakeFlows {
    /// The configuration whose table is there.
    pub table: Option<Box<Config>>,
    /// There is no program nft.
    pub missing: bool,
    /// This many runs of nft are refused.
    pub refuse: u32,
    /// How often it ran.
    pub runs: u32,
    /// A kernel without ctnetlink: nobody answers for that part of netfilter (`net/netfilter/nfnetlink.c`).
    pub without_ctnetlink: bool,
    /// Connections by uplink and family.
    pub counts: Vec<(UplinkSlot, Family, u32)>,
}

impl FakeKernel {
    /// Whether the table is there as a configuration wants it.
    pub fn ask_nft(&mut self, token: Token, config: &Config) {
        let same = self.flows.table.as_deref() == Some(config);
        let errno = if same { Errno::OK } else { Errno::ENOENT };
        self.say(Channel::Local, Event::Acked { token, errno });
    }

    /// Runs nft.
    pub fn load_nft(&mut self, config: &Config) {
        self.flows.runs += 1;
        let result = if self.flows.missing {
            Err(NftFailure::Missing)
        } else if self.flows.refuse > 0 {
            self.flows.refuse -= 1;
            Err(NftFailure::Refused)
        } else {
            self.flows.table = Some(Box::new(config.clone()));
            Ok(())
        };
        self.say(Channel::Local, Event::NftLoaded(result));
    }

    /// Deletes the table for us.
    pub fn delete_nft(&mut self, token: Token) {
        let errno = if self.flows.table.take().is_some() { Errno::OK } else { Errno::ENOENT };
        self.say(Channel::Local, Event::Acked { token, errno });
    }

    /// Somebody else deletes the table.
    pub fn rival_deletes_nft(&mut self) -> bool {
        let there = self.flows.table.take().is_some();
        self.say(Channel::Local, Event::NftLost);
        there
    }

    /// Forgets connections.
    pub fn drop_flows(&mut self, uplink: UplinkSlot, family: Family, all: bool) {
        if self.flows.without_ctnetlink {
            self.say(Channel::Local, Event::FlowsDropped { uplink, family, count: 0, errno: Errno::EINVAL });
            return;
        }
        let mut count = 0;
        for (of, in_family, flows) in &mut self.flows.counts {
            if (all || *of == uplink) && *in_family == family {
                count += std::mem::take(flows);
            }
        }
        self.say(Channel::Local, Event::FlowsDropped { uplink, family, count, errno: Errno::OK });
    }
}
