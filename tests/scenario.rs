//! placeholder
#[test]
fn none() {}
