//! Decides what is known of the uplinks' links, in whatever order the news comes.
//!
//! The kernel announces carrier loss of a physical port at most once a second for all ports together, and merges short
//! bounces into one "up". Its counters tell the truth: `IFLA_CARRIER_DOWN_COUNT` counts every loss, and news whose
//! counters are behind what is known is old and dropped. While the kernel's window may be closed, the links are asked.
//!
//! Holds one [`Watch`] per uplink; links that carry no uplink are not mirrored, so no number of them can fill anything.
//! Sources: kernel `net/core/link_watch.c`, `linux/if_link.h`.

use serde::{Deserialize, Serialize};

use super::action::Token;
use super::event::{LinkInfo, LinkSource};
use crate::time::{Duration, Instant};
use crate::types::{IfIndex, IfName};

/// How long after a link event the kernel may hold back the next one: its second, and a tenth for its timer.
pub const WINDOW: Duration = Duration::from_millis(1100);
/// How often each uplink's link is asked while the window may be closed.
pub const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long an answer that no announcement confirms keeps the window open: with hundreds of new devices the kernel is
/// 5 s behind; some drivers never announce.
pub const DIFFER_MAX: Duration = Duration::from_secs(8);

/// What is known of one uplink's link.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Watch {
    name: IfName,
    link: Option<LinkInfo>,
    announced: Option<bool>,
    differs_since: Option<Instant>,
    seen: bool,
    /// The question that has not been answered.
    pub asked: Option<Token>,
    /// When it was asked last.
    pub asked_at: Option<Instant>,
}

/// What news about a link amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// An answer calls it by another name.
    Doubtful,
    /// Not about this link, nothing new, or old.
    None,
    /// A link with the uplink's name is there, or another one than before.
    Appeared { instead_of: Option<IfIndex> },
    /// The link no longer has the uplink's name; it still exists.
    RenamedAway(IfIndex),
    /// It looks different; `losses` carriers were lost since the last news, `hidden` of them without an announcement.
    Changed { before: LinkInfo, losses: u32, hidden: u32 },
}

impl Watch {
    /// Watches for a device of this name.
    pub fn new(name: IfName) -> Self {
        Self { name, ..Self::default() }
    }

    /// The link as it is now.
    pub fn link(&self) -> Option<&LinkInfo> {
        self.link.as_ref()
    }

    /// Its number.
    pub fn ifindex(&self) -> Option<IfIndex> {
        self.link.map(|l| l.ifindex)
    }

    /// Takes in news about any link.
    pub fn update(&mut self, news: &LinkInfo, source: LinkSource, now: Instant) -> News {
        if source == LinkSource::Answered && (self.ifindex() != Some(news.ifindex) || self.name != news.name) {
            // The question may be older than what was announced since: answers say how a link is, never which it is.
            return if self.ifindex() == Some(news.ifindex) { News::Doubtful } else { News::None };
        }
        let Some(before) = self.link else {
            return if news.name == self.name { self.appear(news, None) } else { News::None };
        };
        if news.ifindex != before.ifindex {
            // Another device took the name: ours was renamed or deleted, and the news of that is late.
            return if news.name == self.name { self.appear(news, Some(before.ifindex)) } else { News::None };
        }
        if news.name != self.name {
            self.link = None;
            return News::RenamedAway(before.ifindex);
        }
        self.seen = true;
        let behind = changes(news).wrapping_sub(changes(&before)) > u32::MAX / 2;
        if behind {
            if source == LinkSource::Dumped {
                // A dump is never old: this is another device with the same name and number.
                return self.appear(news, Some(before.ifindex));
            }
            return News::None;
        }
        if source == LinkSource::Announced {
            self.announced = Some(news.carrier);
        }
        if self.announced == Some(news.carrier) {
            self.differs_since = None;
        } else if self.differs_since.is_none() {
            self.differs_since = Some(now);
        }
        if *news == before {
            return News::None;
        }
        self.link = Some(*news);
        let visible = u32::from(before.carrier && !news.carrier);
        let losses = news.down_count.wrapping_sub(before.down_count).max(visible);
        News::Changed { before, losses, hidden: losses - visible }
    }

    fn appear(&mut self, link: &LinkInfo, instead_of: Option<IfIndex>) -> News {
        self.link = Some(*link);
        self.announced = Some(link.carrier);
        self.differs_since = None;
        self.asked = None;
        self.asked_at = None;
        self.seen = true;
        News::Appeared { instead_of }
    }

    /// The link is gone; `false` when it was not this one.
    pub fn gone(&mut self, ifindex: IfIndex) -> bool {
        let ours = self.ifindex() == Some(ifindex);
        if ours {
            self.link = None;
            self.asked = None;
        }
        ours
    }

    /// Whether an answer told what no announcement has told yet.
    pub fn differs(&self, now: Instant) -> bool {
        self.differs_since.is_some_and(|since| now.since(since) < DIFFER_MAX)
    }

    /// A dump of all links begins.
    pub fn sweep_begin(&mut self) {
        self.seen = false;
    }

    /// The dump was whole: the number of the link, if it was not in it.
    pub fn sweep_end(&self) -> Option<IfIndex> {
        if self.seen { None } else { self.ifindex() }
    }
}

fn changes(link: &LinkInfo) -> u32 {
    link.up_count.wrapping_add(link.down_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, carrier: bool, ups: u32, downs: u32) -> LinkInfo {
        LinkInfo {
            ifindex: IfIndex(ifindex),
            name: IfName::new(b"wan").expect("a valid name"),
            admin_up: true,
            carrier,
            up_count: ups,
            down_count: downs,
            ..LinkInfo::default()
        }
    }

    fn watch() -> Watch {
        let mut watch = Watch::new(IfName::new(b"wan").expect("a valid name"));
        assert_eq!(
            watch.update(&link(2, true, 1, 0), LinkSource::Dumped, Instant::ZERO),
            News::Appeared { instead_of: None }
        );
        watch
    }

    #[test]
    fn bounces_that_were_never_announced_are_counted() {
        let mut watch = watch();
        let news = watch.update(&link(2, true, 4, 3), LinkSource::Announced, Instant::ZERO);
        assert!(matches!(news, News::Changed { losses: 3, hidden: 3, .. }), "{news:?}");
    }

    #[test]
    fn an_announcement_older_than_an_answer_is_dropped() {
        let mut watch = watch();
        let news = watch.update(&link(2, false, 1, 1), LinkSource::Answered, Instant::ZERO);
        assert!(matches!(news, News::Changed { losses: 1, hidden: 0, .. }), "{news:?}");
        assert!(watch.differs(Instant::ZERO));
        assert_eq!(watch.update(&link(2, true, 1, 0), LinkSource::Announced, Instant::ZERO), News::None);
        assert!(!watch.link().is_some_and(|l| l.carrier));
        watch.update(&link(2, false, 1, 1), LinkSource::Announced, Instant::ZERO);
        assert!(!watch.differs(Instant::ZERO));
    }

    #[test]
    fn a_new_device_with_the_old_name_is_another_link() {
        let mut watch = watch();
        let news = watch.update(&link(7, true, 1, 0), LinkSource::Announced, Instant::ZERO);
        assert_eq!(news, News::Appeared { instead_of: Some(IfIndex(2)) });
        assert!(!watch.gone(IfIndex(2)));
        assert_eq!(watch.ifindex(), Some(IfIndex(7)));
    }

    #[test]
    fn counters_may_wrap() {
        let mut watch = Watch::new(IfName::new(b"wan").expect("a valid name"));
        watch.update(&link(2, true, u32::MAX, u32::MAX), LinkSource::Dumped, Instant::ZERO);
        let news = watch.update(&link(2, false, u32::MAX, 0), LinkSource::Announced, Instant::ZERO);
        assert!(matches!(news, News::Changed { losses: 1, .. }), "{news:?}");
    }
}
