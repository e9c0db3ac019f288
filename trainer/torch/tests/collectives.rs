//! Ranks as real processes: each test starts its own binary again for every rank and hosts the store itself, as the
//! trainer's agent does. The ranks speak Gloo over the loopback interface.

#![allow(clippy::unwrap_used)]

use graft_torch::reducer::Buckets;
use graft_torch::tch::{Device, Kind, Tensor};
use graft_torch::{
    ErrorKind, GradientStorage, Interface, Parameter, ProcessGroup, Reducer, ReducerSettings, Reduction, Store, Travel, UnusedParameters, device,
    memory,
};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn rank() -> Option<usize> {
    std::env::var("GRAFT_TEST_RANK").ok().map(|r| r.parse().unwrap())
}

/// The group of a rank process, and the store it met at.
fn join(world: usize, timeout: Duration) -> (Store, ProcessGroup) {
    let port = std::env::var("GRAFT_TEST_PORT").unwrap().parse().unwrap();
    let store = Store::connect("127.0.0.1", port, PATIENCE).unwrap();
    let group = store.prefix("generation-0").unwrap();
    let group = ProcessGroup::gloo(&group, rank().unwrap(), world, timeout, &Interface::Named("lo".into())).unwrap();
    assert_eq!((group.rank(), group.world()), (rank().unwrap(), world));
    (store, group)
}

/// Starts `world` rank processes of one test; returns their exit statuses by rank.
fn start(test: &str, world: usize) -> Vec<ExitStatus> {
    let store = Store::serve(PATIENCE).unwrap();
    let port = store.port().unwrap();
    let spawn = |rank: usize| -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env("GRAFT_TEST_RANK", rank.to_string())
            .env("GRAFT_TEST_PORT", port.to_string())
            .spawn()
            .unwrap()
    };
    let mut children: Vec<Child> = (0..world).map(spawn).collect();
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut statuses = vec![None; world];
    while statuses.iter().any(Option::is_none) {
        for (child, status) in children.iter_mut().zip(&mut statuses) {
            if status.is_none() {
                *status = child.try_wait().unwrap();
            }
        }
        if Instant::now() > deadline {
            children.iter_mut().for_each(|c| drop(c.kill()));
            panic!("{test}: ranks hang, statuses so far {statuses:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    statuses.into_iter().map(Option::unwrap).collect()
}

fn all_succeed(test: &str, world: usize) {
    for (rank, status) in start(test, world).into_iter().enumerate() {
        assert!(status.success(), "{test}: rank {rank} ended with {status}");
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn collectives_give_what_they_should() {
    if rank().is_none() {
        return all_succeed("collectives_give_what_they_should", 2);
    }
    let (_store, group) = join(2, PATIENCE);
    let mine = || Tensor::from_slice(&[1.0f32, 2.0, -3.0]) * (group.rank() as f64 + 1.0);
    for (reduction, expected) in [
        (Reduction::Sum, [3.0, 6.0, -9.0]),
        (Reduction::Mean, [1.5, 3.0, -4.5]),
        (Reduction::Max, [2.0, 4.0, -3.0]),
        (Reduction::Min, [1.0, 2.0, -6.0]),
    ] {
        let tensor = mine();
        group.all_reduce(&tensor, reduction).unwrap();
        assert_eq!(values(&tensor), expected, "{reduction:?}");
    }
    for kind in [Kind::Double, Kind::Int64, Kind::Half, Kind::BFloat16] {
        let tensor = mine().to_kind(kind);
        group.all_reduce(&tensor, Reduction::Sum).unwrap();
        assert_eq!(values(&tensor), [3.0, 6.0, -9.0], "{kind:?}");
    }
    let gathered = group.all_gather(&mine()).unwrap();
    assert_eq!(gathered.iter().map(values).collect::<Vec<_>>(), [[1.0, 2.0, -3.0], [2.0, 4.0, -6.0]]);
    let tensor = mine();
    group.broadcast(&tensor, 1).unwrap();
    assert_eq!(values(&tensor), [2.0, 4.0, -6.0]);
    let many: Vec<Tensor> = (0..5).map(|i| mine() + f64::from(i)).collect();
    group.broadcast_coalesced(&many, 1).unwrap();
    for (i, tensor) in many.iter().enumerate() {
        assert_eq!(values(tensor), [2.0, 4.0, -6.0].map(|v| v + i as f64));
    }
    assert_eq!(group.broadcast(&tensor, 2).unwrap_err().kind, ErrorKind::Backend);
    group.barrier().unwrap();
}

/// Two convolutions, a batch normalisation without tracked statistics and a linear layer; the same on every rank.
fn model() -> Vec<(String, Tensor)> {
    device::manual_seed(3);
    [("conv1", vec![8i64, 3, 3, 3]), ("conv2", vec![16, 8, 3, 3]), ("scale", vec![16]), ("shift", vec![16]), ("fc", vec![4, 16])]
        .into_iter()
        .map(|(name, shape)| {
            let tensor = Tensor::randn(shape.as_slice(), (Kind::Float, Device::Cpu)) * 0.3;
            (name.to_owned(), tensor.set_requires_grad(true))
        })
        .collect()
}

fn loss(parameters: &[(String, Tensor)], data_of: usize) -> Tensor {
    device::manual_seed(100 + data_of as u64);
    let x = Tensor::randn([4, 3, 12, 12], (Kind::Float, Device::Cpu));
    let y = Tensor::randint(4, [4], (Kind::Int64, Device::Cpu));
    let p = |i: usize| &parameters[i].1;
    let none = None::<Tensor>;
    let h = x.conv2d(p(0), none.as_ref(), [1, 1], [1, 1], [1, 1], 1).relu();
    let h = h.conv2d(p(1), none.as_ref(), [2, 2], [1, 1], [1, 1], 1);
    let h = h.batch_norm(Some(p(2)), Some(p(3)), none.as_ref(), none.as_ref(), true, 0.1, 1e-5, false).relu();
    h.mean_dim([2i64, 3].as_slice(), false, Kind::Float).linear(p(4), none.as_ref()).cross_entropy_for_logits(&y)
}

fn tensors(parameters: &[(String, Tensor)]) -> Vec<&Tensor> {
    parameters.iter().map(|p| &p.1).collect()
}

fn local_gradients(parameters: &[(String, Tensor)], data_of: usize) -> Vec<Tensor> {
    memory::zero_grads_to_none(&tensors(parameters)).unwrap();
    device::backward(&loss(parameters, data_of)).unwrap();
    parameters.iter().map(|p| p.1.grad().detach().copy()).collect()
}

#[test]
fn reduced_gradients_are_the_mean_of_local_ones_to_the_bit() {
    if rank().is_none() {
        return all_succeed("reduced_gradients_are_the_mean_of_local_ones_to_the_bit", 2);
    }
    let (_store, group) = join(2, PATIENCE);
    device::set_threads(1, 1).unwrap();
    let parameters = model();
    let (a, b) = (local_gradients(&parameters, 0), local_gradients(&parameters, 1));
    let expected: Vec<Tensor> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
    assert!(a.iter().zip(&expected).all(|(a, e)| !a.equal(e)), "the ranks' gradients must differ");
    let named = || parameters.iter().map(|(name, tensor)| Parameter { name, tensor }).collect::<Vec<_>>();
    for (gradients, cleared) in [
        (GradientStorage::BucketViews, memory::Cleared::Zeros),
        (GradientStorage::BucketViews, memory::Cleared::None),
        (GradientStorage::Separate, memory::Cleared::None),
    ] {
        memory::zero_grads_to_none(&tensors(&parameters)).unwrap();
        let settings = ReducerSettings { bucket_bytes: 4096, first_bucket_bytes: 512, gradients, ..ReducerSettings::default() };
        let mut reducer = Reducer::new(&group, &named(), settings).unwrap();
        let mut rebuilt = Vec::new();
        for _ in 0..3 {
            rebuilt.push(reducer.begin_step().unwrap());
            let loss = loss(&parameters, group.rank());
            reducer.prepare_backward::<Tensor>(&[]).unwrap();
            memory::zero_grads(&tensors(&parameters), cleared).unwrap();
            device::backward(&loss).unwrap();
            reducer.finish_step().unwrap();
            for ((name, parameter), expected) in parameters.iter().zip(&expected) {
                assert!(parameter.grad().equal(expected), "{name} with {gradients:?}, cleared to {cleared:?}");
            }
        }
        assert_eq!(rebuilt, [Buckets::Kept, Buckets::Rebuilt, Buckets::Kept]);
        let stats = reducer.stats().unwrap();
        let bytes: i64 = parameters.iter().map(|p| p.1.numel() as i64 * 4).sum();
        assert!(stats.bucket_bytes.len() > 1, "{stats:?}");
        assert_eq!(stats.bucket_bytes.iter().sum::<u64>(), bytes as u64, "{stats:?}");
    }
    // Through bfloat16 all ranks get the same, near the mean.
    memory::zero_grads_to_none(&tensors(&parameters)).unwrap();
    let mut reducer = Reducer::new(&group, &named(), ReducerSettings { travel: Travel::BFloat16, ..ReducerSettings::default() }).unwrap();
    reducer.begin_step().unwrap();
    let loss = loss(&parameters, group.rank());
    reducer.prepare_backward::<Tensor>(&[]).unwrap();
    device::backward(&loss).unwrap();
    reducer.finish_step().unwrap();
    for ((name, parameter), expected) in parameters.iter().zip(&expected) {
        let (gradient, scale) = (parameter.grad(), a_scale(expected));
        assert!((&gradient - expected).abs().max().double_value(&[]) < 0.02 * scale, "{name} is far from the mean");
        assert!(gradient.equal(&gradient.to_kind(Kind::BFloat16).to_kind(Kind::Float)), "{name} came in float32");
        for other in group.all_gather(&gradient.contiguous()).unwrap() {
            assert!(other.equal(&gradient), "{name} differs between the ranks");
        }
    }
    group.barrier().unwrap();
}

/// The largest magnitude of the local gradients that a mean is of can be more than the mean's own.
fn a_scale(mean: &Tensor) -> f64 {
    mean.abs().max().double_value(&[]).max(1e-3)
}

#[test]
fn an_unused_parameter_is_an_error_or_is_found() {
    if rank().is_none() {
        return all_succeed("an_unused_parameter_is_an_error_or_is_found", 2);
    }
    let (_store, group) = join(2, PATIENCE);
    let mut parameters = model();
    parameters.push(("lonely".into(), Tensor::ones([7], (Kind::Float, Device::Cpu)).set_requires_grad(true)));
    for unused in [UnusedParameters::Forbid, UnusedParameters::Find] {
        let named: Vec<_> = parameters.iter().map(|(name, tensor)| Parameter { name, tensor }).collect();
        let mut reducer = Reducer::new(&group, &named, ReducerSettings { unused, ..Default::default() }).unwrap();
        reducer.begin_step().unwrap();
        let loss = loss(&parameters, group.rank());
        reducer.prepare_backward(&[&loss]).unwrap();
        device::backward(&loss).unwrap();
        match unused {
            UnusedParameters::Forbid => assert_eq!(reducer.finish_step().unwrap_err().kind, ErrorKind::Torch),
            UnusedParameters::Find => reducer.finish_step().unwrap(),
        }
    }
    group.barrier().unwrap();
}

#[test]
fn a_killed_peer_is_an_error_and_the_survivor_goes_on_alone() {
    if rank().is_none() {
        let statuses = start("a_killed_peer_is_an_error_and_the_survivor_goes_on_alone", 2);
        assert!(statuses[0].success(), "the survivor ended with {}", statuses[0]);
        assert_eq!(statuses[1].code(), None, "rank 1 kills itself");
        return;
    }
    // The timeout is far beyond the test's patience: the error must come from the broken connection.
    let (store, group) = join(2, 10 * PATIENCE);
    device::set_log_level(device::LogLevel::Fatal).unwrap();
    let parameters = model();
    let named: Vec<_> = parameters.iter().map(|(name, tensor)| Parameter { name, tensor }).collect();
    let mut reducer = Reducer::new(&group, &named, ReducerSettings::default()).unwrap();
    let mut step = 0;
    let error = loop {
        reducer.begin_step().unwrap();
        let loss = loss(&parameters, group.rank());
        reducer.prepare_backward::<Tensor>(&[]).unwrap();
        if group.rank() == 1 && step == 3 {
            Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
        }
        memory::zero_grads_to_none(&tensors(&parameters)).unwrap();
        match device::backward(&loss) {
            Ok(()) => step += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((step, error.kind), (3, ErrorKind::Network), "{error}");
    assert!(!error.message.contains("frame #"), "{error}");
    let again = group.all_reduce(&Tensor::ones([4], (Kind::Float, Device::Cpu)), Reduction::Sum).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Network, "{again}");
    drop((reducer, group));

    let store = store.prefix("generation-1").unwrap();
    let group = ProcessGroup::gloo(&store, 0, 1, PATIENCE, &Interface::Named("lo".into())).unwrap();
    let mut reducer = Reducer::new(&group, &named, ReducerSettings::default()).unwrap();
    let expected = local_gradients(&parameters, 0);
    reducer.begin_step().unwrap();
    let loss = loss(&parameters, 0);
    reducer.prepare_backward::<Tensor>(&[]).unwrap();
    memory::zero_grads_to_none(&tensors(&parameters)).unwrap();
    device::backward(&loss).unwrap();
    reducer.finish_step().unwrap();
    for ((name, parameter), expected) in parameters.iter().zip(&expected) {
        assert!(parameter.grad().equal(expected), "{name}");
    }
}

#[test]
fn a_silent_peer_is_a_timeout() {
    if rank().is_none() {
        return all_succeed("a_silent_peer_is_a_timeout", 2);
    }
    let (store, group) = join(2, Duration::from_millis(500));
    if group.rank() == 0 {
        let error = group.barrier().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        store.set("done", b"").unwrap();
    } else {
        store.wait("done", PATIENCE).unwrap();
    }
}
