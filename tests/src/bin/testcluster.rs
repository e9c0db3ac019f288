//! `testcluster`: the test cluster by hand. `up` starts one that stays, `down` removes it, `programs` only compiles what
//! a cluster needs, `check` says whether this machine can run a node.

use anyhow::{Result, bail};
use graft_tests::cluster::{Cluster, Lifetime, Parts, can_run_node, list, remove_all};
use graft_tests::programs::Programs;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["up"] => {
            can_run_node().map_err(anyhow::Error::msg)?;
            let cluster = Cluster::start_with(Parts::Node, Lifetime::Detached)?;
            println!("cluster {} is up; use it with\nexport KUBECONFIG={}", cluster.id(), cluster.kubeconfig().display());
        }
        ["down"] | ["down", "--all"] => report(&remove_all(None)),
        ["down", id] => {
            let removed = remove_all(Some(id));
            if removed.is_empty() {
                bail!("there is no cluster {id}; there are: [{}]", list().join(", "));
            }
            report(&removed);
        }
        ["programs"] => {
            for (name, path) in Programs::ensure()?.all() {
                println!("{name}: {}", path.display());
            }
        }
        ["check"] => {
            can_run_node().map_err(anyhow::Error::msg)?;
            println!("this machine can run a node");
        }
        _ => bail!("usage: testcluster up | down [ID] | programs | check"),
    }
    Ok(())
}

fn report(removed: &[String]) {
    match removed {
        [] => println!("no cluster to remove"),
        ids => println!("removed {}", ids.join(", ")),
    }
}
