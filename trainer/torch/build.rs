//! Compiles the C++ shim against the libtorch that torch-sys was given and tells dependents where its libraries lie.
//! It never looks for libtorch itself, and it never downloads anything.

use std::path::{Path, PathBuf};

const WANTED: &str = "2.11";

fn main() {
    println!("cargo:rerun-if-changed=csrc");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GRAFT_CUDA_INCLUDE");
    if let Err(message) = build() {
        println!("cargo::error={message}");
    }
}

fn build() -> Result<(), String> {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB")
        .map(PathBuf::from)
        .map_err(|_| format!("torch-sys found no libtorch: set LIBTORCH to the folder of libtorch {WANTED} that holds lib/ and include/"))?;
    let torch = lib.parent().ok_or_else(|| format!("{} is not the lib folder of a libtorch", lib.display()))?;
    check_version(torch)?;

    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").pic(true).warnings(false).file("csrc/shim.cpp").file("csrc/tensors.cpp").include("csrc/stubs");
    let with_cuda = std::env::var_os("CARGO_FEATURE_CUDA").is_some();
    shim.file(if with_cuda { "csrc/cuda.cpp" } else { "csrc/without_cuda.cpp" });
    for folder in ["include", "include/torch/csrc/api/include"] {
        shim.flag("-isystem").flag(torch.join(folder));
    }
    if with_cuda {
        for folder in cuda_includes(torch)? {
            shim.flag("-isystem").flag(folder);
        }
    }
    shim.compile("graft_shim");

    println!("cargo:rustc-link-search=native={}", lib.display());
    if with_cuda {
        println!("cargo:rustc-link-lib=torch_cuda");
        println!("cargo:rustc-link-lib=c10_cuda");
    }
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    // A library's own tests get the path here; a dependent's build script reads DEP_GRAFT_TORCH_LIB and does the same.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());
    Ok(())
}

/// Wheels carry the version in a header, libtorch's own archives in `build-version` as well.
fn check_version(torch: &Path) -> Result<(), String> {
    let header = torch.join("include/torch/headeronly/version.h");
    let text = std::fs::read_to_string(&header)
        .map_err(|e| format!("{}: {e}; LIBTORCH must point at libtorch {WANTED} (the folder that holds lib/ and include/)", header.display()))?;
    let version = text.split('"').nth(1).unwrap_or("unknown");
    if version.starts_with(&format!("{WANTED}.")) {
        return Ok(());
    }
    Err(format!("{} is libtorch {version}, this crate is written for {WANTED}: point LIBTORCH at that version", torch.display()))
}

/// Headers for NCCL and CUDA: the folders named in GRAFT_CUDA_INCLUDE (separated by `:`), and, where libtorch is a
/// wheel, those of the nvidia wheels beside it.
fn cuda_includes(torch: &Path) -> Result<Vec<PathBuf>, String> {
    let named = std::env::var("GRAFT_CUDA_INCLUDE").unwrap_or_default();
    let mut folders: Vec<PathBuf> = named.split(':').filter(|s| !s.is_empty()).map(PathBuf::from).collect();
    if let Some(site) = torch.parent() {
        folders.extend(["nvidia/cu13/include", "nvidia/nccl/include"].map(|f| site.join(f)).into_iter().filter(|f| f.is_dir()));
    }
    for header in ["cuda_runtime_api.h", "crt/host_config.h", "nv/target", "nccl.h"] {
        // CCCL puts its headers one folder deeper.
        let found = folders.iter().any(|f| f.join(header).is_file() || f.join("cccl").join(header).is_file());
        if !found {
            return Err(format!(
                "feature `cuda`: {header} is not under {folders:?}; install the wheels nvidia-cuda-runtime, \
                 nvidia-cuda-crt, nvidia-cuda-cccl and nvidia-nccl-cu13 beside torch, or name their include folders in \
                 GRAFT_CUDA_INCLUDE"
            ));
        }
    }
    let deeper: Vec<PathBuf> = folders.iter().map(|f| f.join("cccl")).filter(|f| f.is_dir()).collect();
    folders.extend(deeper);
    Ok(folders)
}
