use std::{env, fs, path::Path};
fn main() {
    let out = Path::new(&env::var("OUT_DIR").unwrap()).join("limits.rs");
    fs::write(
        out,
        r#"
pub const BOARD: &str = "host";
pub const UPLINKS: usize = 8;
pub const POLICIES: usize = 16;
pub const MEMBERS: usize = 16;
pub const POLICY_RULES: usize = 32;
pub const ADDRESSES: usize = 8;
pub const GATEWAYS: usize = 4;
pub const GROUP: usize = 8;
pub const NEXTHOPS: usize = 64;
pub const ROUTES: usize = 160;
pub const RULES: usize = 160;
pub const NOTICES: usize = 32;
pub const IN_FLIGHT: usize = 32;
pub const NETLINK_RX: usize = 16384;
pub const ENGINE_BYTES: usize = 131072;
"#,
    )
    .unwrap();
}
