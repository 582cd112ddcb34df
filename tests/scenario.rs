//! The scenarios of `tests/scenarios`, one test each: a timeline of what happens and of what must come of it.
//!
//! `LINKWATCH_BLESS=1 cargo test --test scenario` writes down what comes out; read the difference before you commit it.

use std::path::{Path, PathBuf};

use linkwatch::sim::script;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn run(name: &str) {
    let path = folder().join(format!("{}.txt", name.replace('_', "-")));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(text.starts_with("# "), "{name} does not open with what it shows");
    let found = script::run(&text).unwrap_or_else(|problem| panic!("{name}: {problem}"));
    if found == text {
        return;
    }
    if std::env::var_os("LINKWATCH_BLESS").is_some() {
        std::fs::write(&path, found).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        return;
    }
    let (want, found): (Vec<&str>, Vec<&str>) = (text.lines().collect(), found.lines().collect());
    let at = want.iter().zip(&found).position(|(w, f)| w != f).unwrap_or(want.len().min(found.len()));
    let line = |lines: &[&str]| lines.get(at).map_or("the end".to_owned(), |l| (*l).to_owned());
    panic!("{name}: line {}\n  should be: {}\n  but is:    {}", at + 1, line(&want), line(&found));
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_file_is_run() {
            let names = [$(stringify!($name)),*];
            for entry in std::fs::read_dir(folder()).expect("the folder is there") {
                let name = entry.expect("readable").file_name().into_string().expect("a plain name");
                let stem = name.trim_end_matches(".txt").replace('-', "_");
                assert!(names.contains(&stem.as_str()), "{name} is not in the list of tests/scenario.rs");
            }
        }
    };
}

scenarios! {
    an_operator_holds_an_uplink
    upstream_dies_silently
    fast_probes
    one_target_of_three_is_filtered
    a_target_that_fails_everywhere_is_sick
    all_uplinks_dark_moves_nobody
    reliability_of_two
    families_fail_by_themselves
    a_lossy_uplink_is_degraded
    a_slow_uplink_is_degraded
    a_policy_may_use_degraded_uplinks
    a_metered_standby_is_asked_sparingly
    a_metered_standby_that_died_is_found
    traffic_holds_probes_back
    without_an_answer_it_is_not_used
    names_are_resolved_through_the_uplink
    a_new_address_restarts_the_probe
    intervals_of_failure_and_recovery
    a_frozen_daemon_blames_nobody
    a_rival_deletes_routes
    a_rival_deletes_rules
    a_rival_in_a_loop
    a_stranger_in_our_place
    address_goes_and_comes
    administratively_down
    both_families
    carrier_loss_and_return
    device_deleted_and_made_again
    device_renamed
    failed_while_it_was_dead
    flapping_is_damped
    flapping_uplink_is_better_than_none
    gateway_configured
    gateway_learned_and_followed
    hold_down_starts_again
    interrupted_dumps
    last_resort_blackhole
    last_resort_default
    last_resort_unreachable
    late_announcement
    lost_answers
    lost_notifications
    marked_packets_keep_their_uplink
    number_given_to_another
    refused_changes
    reload_adds_an_uplink
    reload_of_the_same_changes_nothing
    restart_changes_nothing
    tentative_address
    unseen_bounces_are_counted
    without_ipv6
    nft_refuses_at_first
    without_nft
    without_ctnetlink
    nft_table_deleted
    nothing_is_forgotten_alone
    failback_immediate
    failback_never
    balanced_without_resilient_groups
    balanced_pair
    without_nexthops
}
