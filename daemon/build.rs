//! Build script of what the tests start: debug builds are linked to a fixed address. A short command spends most of its
//! time on relocations otherwise (700,000 of them, 2,300 page faults), and the tests start tens of thousands of those.
//! Release builds keep their random address.

#![expect(
    clippy::disallowed_macros,
    reason = "cargo reads what a build script prints"
)]

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=Cargo.toml");
    let is = |name, value| var(name).is_ok_and(|v| v == value);
    if is("PROFILE", "debug")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
    {
        println!("cargo:rustc-link-arg=-no-pie");
    }
}
