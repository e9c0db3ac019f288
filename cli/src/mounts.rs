//! Paths of pods on this machine: a TransferJob names files as its pods see them, and `--mount /data=/some/folder` says
//! where such a folder lies here. Nothing is mounted; the URIs are rewritten.

use std::path::PathBuf;
use std::str::FromStr;

use graft_crds::TransferJobSpec;

/// One `--mount INSIDE=OUTSIDE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    inside: String,
    outside: PathBuf,
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no mount; write it like /data=/home/me/data: the path in the pods, then the folder here");
        let (inside, outside) = text.split_once('=').ok_or_else(wanted)?;
        if !inside.starts_with('/') || outside.is_empty() {
            return Err(wanted());
        }
        let outside = std::path::absolute(outside).map_err(|e| format!("{outside}: {e}"))?;
        // Collecting the components drops a slash at the end.
        Ok(Self { inside: inside.trim_end_matches('/').to_owned(), outside: outside.components().collect() })
    }
}

/// `uri` with the longest fitting mount applied; unchanged when none fits.
pub fn rewrite(uri: &str, mounts: &[Mount]) -> String {
    let Some(path) = uri.strip_prefix("file://") else { return uri.to_owned() };
    let fitting = mounts.iter().filter_map(|m| {
        let rest = path.strip_prefix(m.inside.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then_some((m, rest))
    });
    match fitting.max_by_key(|(m, _)| m.inside.len()) {
        Some((mount, rest)) => format!("file://{}{rest}", mount.outside.display()),
        None => uri.to_owned(),
    }
}

/// Rewrite every URI of a job.
pub fn apply(spec: &mut TransferJobSpec, mounts: &[Mount]) {
    let sets = [Some(&mut spec.data.train.uri), spec.data.validation.uri.as_mut(), spec.data.test.as_mut().map(|set| &mut set.uri)];
    for uri in sets.into_iter().flatten().chain([&mut spec.backbone.weights.uri, &mut spec.output.uri]) {
        *uri = rewrite(uri, mounts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_whole_prefix_wins() {
        let mounts: Vec<Mount> = ["/data=/a", "/data/weights=/b/", "/=/c"].iter().map(|m| m.parse().unwrap()).collect();
        for (uri, wanted) in [
            ("file:///data", "file:///a"),
            ("file:///data/x.csv", "file:///a/x.csv"),
            ("file:///data/weights/w.pth", "file:///b/w.pth"),
            ("file:///data2/x", "file:///c/data2/x"),
        ] {
            assert_eq!(rewrite(uri, &mounts), wanted, "{uri}");
        }
        assert_eq!(rewrite("file:///elsewhere", &mounts[..2]), "file:///elsewhere");
    }

    #[test]
    fn a_mount_without_a_path_is_refused() {
        for text in ["data=/x", "/data", "/data="] {
            assert!(text.parse::<Mount>().is_err(), "{text}");
        }
    }
}
