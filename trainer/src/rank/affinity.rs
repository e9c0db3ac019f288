//! Which processors a rank keeps to: a part of those that its pod may use, on the NUMA node of its GPU where that can be told. Else two
//! ranks of a machine now and then share a processor for seconds, and all others wait for them.

use std::fs;
use std::path::Path;

use graft_trainer_core::sampler;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// From now on this thread, and every later one of the process, runs on the rank's own processors.
pub(super) fn keep_to_own_processors(local_rank: usize, ranks: usize, gpus: bool) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number)).collect();
    let gpus = if gpus { gpu_nodes(Path::new("/proc/driver/nvidia/gpus"), Path::new("/sys/bus/pci/devices")) } else { Vec::new() };
    let mut own = CpuSet::new();
    for number in own_processors(&by_node(&allowed, Path::new("/sys/devices/system/node")), &gpus, local_rank, ranks) {
        own.set(number);
    }
    // A sandbox may forbid it, and the run is right without.
    let _ = sched_setaffinity(None, &own);
}

/// A rank's part of the processors, given with their NUMA nodes. Ranks whose GPUs are on one node share that node's; where a GPU's node
/// is not known or has none of the processors, and without GPUs, all ranks share all, neighbours together. With fewer processors
/// than ranks each has all.
fn own_processors(allowed: &[(usize, usize)], gpus: &[Option<usize>], local_rank: usize, ranks: usize) -> Vec<usize> {
    let share = |from: Vec<usize>, rank: usize, ranks: usize| {
        if from.len() < ranks { from } else { from[sampler::shard(from.len(), rank, ranks)].to_vec() }
    };
    let on = |node: usize| -> Vec<usize> { allowed.iter().filter(|(_, n)| *n == node).map(|(number, _)| *number).collect() };
    // All ranks or none go by their GPU, or two could get the same processors.
    let nodes: Option<Vec<usize>> = (0..ranks).map(|rank| (*gpus.get(rank)?).filter(|node| !on(*node).is_empty())).collect();
    match nodes {
        Some(nodes) => {
            let node = nodes[local_rank];
            let beside = |to: usize| nodes[..to].iter().filter(|n| **n == node).count();
            share(on(node), beside(local_rank), beside(ranks))
        }
        None => share(allowed.iter().map(|(number, _)| *number).collect(), local_rank, ranks),
    }
}

/// The processors with their NUMA nodes, node by node.
fn by_node(allowed: &[usize], nodes: &Path) -> Vec<(usize, usize)> {
    let node = |number: usize| {
        let entries = fs::read_dir(nodes).ok()?.flatten();
        let mut numbers = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse::<usize>().ok());
        numbers.find(|node| nodes.join(format!("node{node}/cpu{number}")).exists())
    };
    let mut with_nodes: Vec<(usize, usize)> = allowed.iter().map(|number| (*number, node(*number).unwrap_or(0))).collect();
    with_nodes.sort_by_key(|(number, node)| (*node, *number));
    with_nodes
}

/// The NUMA node of each GPU that this pod has, in the order of their PCI addresses, which is CUDA's where all are of one kind.
fn gpu_nodes(driver: &Path, devices: &Path) -> Vec<Option<usize>> {
    let mut addresses: Vec<_> = fs::read_dir(driver).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    addresses.sort();
    let node = |address| fs::read_to_string(devices.join(address).join("numa_node")).ok()?.trim().parse().ok();
    addresses.into_iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(numbers: &[usize]) -> Vec<(usize, usize)> {
        numbers.iter().map(|number| (*number, 0)).collect()
    }

    #[test]
    fn ranks_have_processors_of_their_own() {
        let allowed = plain(&[0, 1, 4, 5, 6]);
        assert_eq!([0, 1].map(|rank| own_processors(&allowed, &[], rank, 2)), [vec![0, 1, 4], vec![5, 6]]);
        assert_eq!(own_processors(&allowed, &[], 0, 1), [0, 1, 4, 5, 6]);
        assert_eq!(own_processors(&allowed, &[], 3, 9), [0, 1, 4, 5, 6]);
    }

    #[test]
    fn ranks_are_beside_their_gpus() {
        let allowed = [(0, 0), (1, 0), (8, 0), (9, 0), (2, 1), (3, 1)];
        let of = |gpus: &[Option<usize>]| (0..gpus.len()).map(|rank| own_processors(&allowed, gpus, rank, gpus.len())).collect::<Vec<_>>();
        assert_eq!(of(&[Some(1), Some(0), Some(0)]), [vec![2, 3], vec![0, 1], vec![8, 9]]);
        // One of unknown place, or on a node without processors of this pod: all share all.
        assert_eq!(of(&[Some(1), None]), [vec![0, 1, 8], vec![9, 2, 3]]);
        assert_eq!(of(&[Some(1), Some(7)]), [vec![0, 1, 8], vec![9, 2, 3]]);
        assert_eq!(own_processors(&allowed, &[Some(1)], 1, 2), [9, 2, 3]);
    }

    #[test]
    fn the_kernel_says_where_things_are() {
        let root = tempfile::tempdir().unwrap();
        for (node, number) in [(0, 0), (1, 1), (0, 2), (1, 3)] {
            fs::create_dir_all(root.path().join(format!("node/node{node}/cpu{number}"))).unwrap();
        }
        assert_eq!(by_node(&[0, 1, 2], &root.path().join("node")), [(0, 0), (2, 0), (1, 1)]);
        assert_eq!(by_node(&[4, 5], Path::new("/nowhere")), [(4, 0), (5, 0)]);
        for (address, node) in [("0000:9b:00.0", "1\n"), ("0000:1b:00.0", "-1\n")] {
            fs::create_dir_all(root.path().join("gpus").join(address)).unwrap();
            fs::create_dir_all(root.path().join("pci").join(address)).unwrap();
            fs::write(root.path().join("pci").join(address).join("numa_node"), node).unwrap();
        }
        assert_eq!(gpu_nodes(&root.path().join("gpus"), &root.path().join("pci")), [None, Some(1)]);
        assert_eq!(gpu_nodes(Path::new("/nowhere"), Path::new("/nowhere")), [None; 0]);
    }
}
