//! Every capacity, its unit and what happens at the edge; the numbers come from the board profile.
//!
//! A profile in `board/` gives the numbers, `board/build.rs` turns them into constants, this file says what they mean
//! and checks that they fit together.

include!(concat!(env!("OUT_DIR"), "/limits.rs"));
