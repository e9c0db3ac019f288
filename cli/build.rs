//! Gives `graft` and its tests the run path to libtorch that graft-torch was linked with.
//! LD_LIBRARY_PATH still wins over it, so the binary can be carried to another libtorch of the same version.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_GRAFT_TORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_GRAFT_TORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
