//! `image TRAINER LIBTORCH TARGET [WHEELS]`: packs the trainer with every library it loads into an OCI image: no shell, no
//! package manager, a user of its own. Libraries are a layer apart from the binary, so a new trainer rewrites little.
//! `image --operator OPERATOR TARGET` does the same with the operator, which needs nothing but the C library.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use graft_tests::oci::{Architecture, Entry, Settings, write_image};
use graft_tests::sbom;
use graft_tests::scenario::image_of;

/// What libtorch opens by name on GPUs, so that no header asks for it: its CUDA half, linear algebra, run-time compilation,
/// and the parts of cuDNN.
const OPENED_AT_RUN_TIME: &[&str] = &[
    "libtorch_cuda.so",
    "libtorch_cuda_linalg.so",
    "libcaffe2_nvrtc.so",
    "libnvrtc.so.13",
    "libnvrtc-builtins.so.13.0",
    "libcudnn_graph.so.9",
    "libcudnn_ops.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_adv.so.9",
    "libcudnn_heuristic.so.9",
    "libcudnn_engines_precompiled.so.9",
    "libcudnn_engines_runtime_compiled.so.9",
];

/// The driver's; a GPU node's container runtime puts it into the container.
const FROM_THE_DRIVER: &str = "libcuda.so.1";

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (trainer, libtorch, target, wheels) = match &arguments[..] {
        [flag, operator, target] if flag.as_os_str() == "--operator" => {
            // For Arm it is static, and only this machine's own programs can be asked.
            let libraries = if Architecture::of(operator)? == Architecture::Arm64 { BTreeMap::new() } else { needed(operator, &[])? };
            let name = operator.file_name().context("the operator has no name")?.to_string_lossy();
            return pack(&name, operator, libraries, target, &image_of(&name));
        }
        [trainer, libtorch, target] => (trainer, libtorch, target, None),
        [trainer, libtorch, target, wheels] => (trainer, libtorch, target, Some(wheels)),
        _ => bail!("usage: image TRAINER LIBTORCH TARGET [WHEELS], or image --operator OPERATOR TARGET"),
    };
    let mut search = match wheels {
        Some(wheels) => library_folders(wheels),
        None => Vec::new(),
    };
    search.insert(0, libtorch.join("lib"));
    if let Some(site) = libtorch.parent() {
        search.extend(library_folders(&site.join("nvidia")));
    }
    let mut libraries = needed(trainer, &search)?;
    if wheels.is_some() {
        for name in OPENED_AT_RUN_TIME {
            let path = search.iter().map(|f| f.join(name)).find(|p| p.is_file()).with_context(|| format!("{name} is in none of the wheels"))?;
            libraries.extend(needed(&path, &search)?);
            libraries.insert((*name).to_owned(), path);
        }
    }
    pack("graft-trainer", trainer, libraries, target, &image_of("graft-trainer"))
}

/// Write the image of a binary that is called `name` in it.
fn pack(name: &str, binary: &Path, libraries: BTreeMap<String, PathBuf>, target: &Path, image: &str) -> Result<()> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
    let total: u64 = libraries.values().map(|p| size(p)).sum();
    println!("{} libraries, {} MB; {name} {} MB", libraries.len(), total / 1_000_000, size(binary) / 1_000_000);

    let mut base = vec![
        Entry::Folder { path: "tmp".into(), mode: 0o1777 },
        Entry::Bytes { path: "etc/passwd".into(), content: b"graft:x:65532:65532:graft:/tmp:/nonexistent\n".to_vec(), mode: 0o644 },
        // Without it glibc asks DNS first and never looks at /etc/hosts, where a pod finds its own name.
        Entry::Bytes { path: "etc/nsswitch.conf".into(), content: b"hosts: files dns\n".to_vec(), mode: 0o644 },
        Entry::File { path: "LICENSE".into(), source: graft_tests::scenario::workspace().join("LICENSE"), mode: 0o644 },
    ];
    let architecture = Architecture::of(binary)?;
    let materials = sbom::of(name, architecture, &libraries.keys().cloned().collect::<Vec<_>>())?;
    for (file, content) in [("sbom.cdx.json", materials.bill), ("licences.txt", materials.licences)] {
        base.push(Entry::Bytes { path: format!("{}/{file}", sbom::FOLDER), content, mode: 0o644 });
    }
    for (library, source) in libraries {
        let folder = if library.starts_with("ld-linux") { "lib64" } else { "lib" };
        base.push(Entry::File { path: format!("{folder}/{library}"), source, mode: 0o755 });
    }
    let entry = vec![Entry::File { path: name.into(), source: binary.to_path_buf(), mode: 0o755 }];
    let label = |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
    let settings = Settings {
        architecture,
        entrypoint: vec![format!("/{name}")],
        env: vec!["LD_LIBRARY_PATH=/lib".into()],
        user: "65532:65532".into(),
        labels: vec![label("title", name), label("version", env!("CARGO_PKG_VERSION")), label("licenses", "Apache-2.0")],
    };
    let bytes = write_image(target, image, &[base, entry], &settings)?;
    println!("{}: {image}, {} MB", target.display(), bytes / 1_000_000);
    Ok(())
}

/// Every folder named `lib` below, two levels deep: where the NVIDIA wheels keep their libraries.
fn library_folders(site: &Path) -> Vec<PathBuf> {
    let children = |folder: &Path| -> Vec<PathBuf> { fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect() };
    let mut found: Vec<PathBuf> = children(site).into_iter().flat_map(|p| [p.join("lib"), p.clone()]).collect();
    for folder in children(site) {
        found.extend(children(&folder).into_iter().map(|p| p.join("lib")));
    }
    found.retain(|p| p.is_dir());
    found
}

/// The libraries that the dynamic linker would load for a file, by the name it asks for, the linker itself included.
fn needed(file: &Path, search: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let path = std::env::join_paths(search)?;
    let output = Command::new("ldd").arg(file).env("LD_LIBRARY_PATH", path).output().context("starting ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("ldd {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(FROM_THE_DRIVER) {
            continue;
        }
        if line.contains("not found") {
            bail!("{}: {line}", file.display());
        }
        let target = line.split(" => ").last().unwrap_or(line).split(" (").next().unwrap_or_default();
        if target.starts_with('/') {
            let name = line.split([' ', '(']).next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            found.insert(name.to_owned(), PathBuf::from(target));
        }
    }
    Ok(found)
}
