//! What one process can check: the store, the error kinds, fused optimizer steps against tch's own, memory formats.

#![allow(clippy::unwrap_used)]

use graft_torch::Graph;
use graft_torch::device::{AutocastGuard, AutocastType};
use graft_torch::optim::{self, AdamState, AdamStep, Momentum, OnDevice, SgdStep, SgdTurn, WeightDecay, fused_adam, fused_sgd};
use graft_torch::tch::{Device, Kind, Tensor};
use graft_torch::transfer::{self, Later};
use graft_torch::{ErrorKind, Interface, Parameter, ProcessGroup, Reducer, ReducerSettings, Store, device, memory};
use std::time::{Duration, Instant};

fn server() -> Store {
    Store::serve(Duration::from_secs(5)).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn a_store_keeps_bytes_and_counts() {
    let server = server();
    let client = Store::connect("127.0.0.1", server.port().unwrap(), Duration::from_secs(5)).unwrap();
    let view = client.prefix("job").unwrap();
    let long: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    view.set("bytes", &long).unwrap();
    assert_eq!(view.get("bytes").unwrap(), long);
    assert_eq!(server.get("job/bytes").unwrap(), long);
    view.set("empty", b"").unwrap();
    assert_eq!(view.get("empty").unwrap(), b"");
    assert_eq!(view.add("members", 2).unwrap(), 2);
    assert_eq!(view.add("members", -3).unwrap(), -1);
    assert!(view.check("members").unwrap() && !view.check("absent").unwrap());
    assert!(view.delete("members").unwrap() && !view.check("members").unwrap());
    assert_eq!(view.port().unwrap_err().kind, ErrorKind::Torch);
    assert!(view.set("zero\0byte", b"").is_err());
}

#[test]
fn a_store_listens_on_loopback_only() {
    let store = server();
    let other = std::net::TcpStream::connect(("127.0.0.2", store.port().unwrap()));
    assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "it listens on every address");
}

#[test]
fn waiting_for_a_key_ends_at_the_timeout() {
    let server = server();
    let start = Instant::now();
    let error = server.wait("never", Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() >= Duration::from_millis(250));
    assert!(!error.to_string().contains("frame #"), "{error}");
}

#[test]
fn a_store_that_is_not_there_is_an_error() {
    device::set_log_level(device::LogLevel::Fatal).unwrap();
    let port = server().port().unwrap();
    let error = Store::connect("127.0.0.1", port, Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Network | ErrorKind::Timeout), "{error}");
}

#[test]
fn groups_refuse_what_cannot_be() {
    let store = server();
    let timeout = Duration::from_secs(5);
    let error = ProcessGroup::gloo(&store, 2, 2, timeout, &Interface::Default).unwrap_err();
    assert!(error.message.contains("rank 2"), "{error}");
    let error = ProcessGroup::gloo(&store, 0, 1, timeout, &Interface::Named("no-such-interface".into()));
    assert!(error.is_err());
    if !ProcessGroup::has_nccl() {
        let error = ProcessGroup::for_device(Device::Cuda(0), &store, 0, 1, timeout, &Interface::Default).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Backend);
        assert!(error.message.contains("feature `cuda`"), "{error}");
    }
    let group = ProcessGroup::for_device(Device::Cpu, &store, 0, 1, timeout, &Interface::Named("lo".into())).unwrap();
    let frozen = Tensor::ones([2], (Kind::Float, Device::Cpu));
    let named = [Parameter { name: "frozen", tensor: &frozen }];
    let error = Reducer::new(&group, &named, ReducerSettings::default()).unwrap_err();
    assert!(error.message.contains("frozen does not require a gradient"), "{error}");
}

#[test]
fn gradients_are_cleared_to_zeros_and_to_nothing() {
    let w = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    device::backward(&(&w * 2.0).sum(Kind::Float)).unwrap();
    assert_eq!(floats(&w.grad()), [2.0; 3]);
    memory::zero_grads(&[&w], memory::Cleared::Zeros).unwrap();
    assert_eq!(floats(&w.grad()), [0.0; 3]);
    memory::zero_grads_to_none(&[&w]).unwrap();
    assert!(!w.grad().defined());
}

#[test]
fn fused_adam_follows_the_paper() {
    for decay in [WeightDecay::Coupled, WeightDecay::Decoupled] {
        let step = AdamStep { lr: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.05, eps: 1e-8, decay };
        let p = [Tensor::from_slice(&[1.0f32, -2.0, 0.5])];
        let (m, v) = ([p[0].zeros_like()], [p[0].zeros_like()]);
        let t = [Tensor::from(0f32)];
        let (mut pe, mut me, mut ve) = ([1.0f64, -2.0, 0.5], [0.0f64; 3], [0.0f64; 3]);
        for k in 1..=4 {
            let g = [0.3 * f64::from(k), -0.2, 0.7];
            let gradient = [Tensor::from_slice(&g.map(|x| x as f32))];
            fused_adam(&p, &gradient, &AdamState { first: &m, second: &v, steps: &t }, step, OnDevice::default()).unwrap();
            for i in 0..3 {
                let mut gi = g[i];
                match decay {
                    WeightDecay::Coupled => gi += step.weight_decay * pe[i],
                    WeightDecay::Decoupled => pe[i] *= 1.0 - step.lr * step.weight_decay,
                }
                me[i] = step.beta1 * me[i] + (1.0 - step.beta1) * gi;
                ve[i] = step.beta2 * ve[i] + (1.0 - step.beta2) * gi * gi;
                let (mh, vh) = (me[i] / (1.0 - step.beta1.powi(k)), ve[i] / (1.0 - step.beta2.powi(k)));
                pe[i] -= step.lr * mh / (vh.sqrt() + step.eps);
            }
        }
        assert_eq!(floats(&t[0]), [4.0]);
        for (got, expected) in floats(&p[0]).iter().zip(pe) {
            assert!((got - expected).abs() < 1e-5, "{decay:?}: {got} against {expected}");
        }
        assert!(fused_adam(&p, &[], &AdamState { first: &m, second: &v, steps: &t }, step, OnDevice::default()).is_err());
    }
}

#[test]
fn fused_sgd_has_momentum_and_nesterov() {
    for (momentum, kind) in [(0.0, Momentum::Classical), (0.9, Momentum::Classical), (0.9, Momentum::Nesterov)] {
        let p = [Tensor::from_slice(&[1.0f32, -2.0])];
        let buffer = [p[0].zeros_like()];
        let (mut pe, mut be) = ([1.0f64, -2.0], [0.0f64; 2]);
        for k in 0..3 {
            let turn = if k == 0 { SgdTurn::First } else { SgdTurn::Later };
            let gradient = [Tensor::from_slice(&[0.5f32, -0.25])];
            let step = SgdStep { lr: 0.1, momentum, weight_decay: 0.01, kind, turn };
            fused_sgd(&p, &gradient, &buffer, step, OnDevice::default()).unwrap();
            for (i, g) in [0.5, -0.25].into_iter().enumerate() {
                let g = g + 0.01 * pe[i];
                be[i] = momentum * be[i] + g;
                pe[i] -= 0.1
                    * match kind {
                        Momentum::Classical => be[i],
                        Momentum::Nesterov => g + momentum * be[i],
                    };
            }
        }
        for (got, expected) in floats(&p[0]).iter().zip(pe) {
            assert!((got - expected).abs() < 1e-6, "{momentum} {kind:?}: {got} against {expected}");
        }
    }
}

#[test]
fn memory_format_changes_and_values_stay() {
    let x = Tensor::randn([2, 3, 4, 5], (Kind::Float, Device::Cpu));
    let y = memory::to_channels_last(&x).unwrap();
    assert!(!memory::is_channels_last(&x).unwrap() && memory::is_channels_last(&y).unwrap());
    assert!(x.equal(&y));
    let mut w = x.copy().set_requires_grad(true);
    memory::set_channels_last(&mut w).unwrap();
    assert!(memory::is_channels_last(&w).unwrap() && w.requires_grad() && w.is_leaf());
}

#[test]
fn autocast_ends_with_its_guard() {
    let x = Tensor::randn([4, 4], (Kind::Float, Device::Cpu));
    {
        let _guard = AutocastGuard::new(Device::Cpu, AutocastType::BFloat16).unwrap();
        assert_eq!(x.matmul(&x).kind(), Kind::BFloat16);
    }
    assert_eq!(x.matmul(&x).kind(), Kind::Float);
}

#[test]
fn settings_are_taken() {
    device::set_threads(1, 1).unwrap();
    device::set_threads(2, 1).unwrap();
    device::set_determinism(device::Determinism::Deterministic).unwrap();
    device::set_determinism(device::Determinism::Fast).unwrap();
    device::manual_seed(u64::MAX);
    let a = Tensor::rand([3], (Kind::Float, Device::Cpu));
    device::manual_seed(u64::MAX);
    assert!(a.equal(&Tensor::rand([3], (Kind::Float, Device::Cpu))));
}

#[test]
fn bytes_and_numbers_travel() {
    let bytes = transfer::bytes(3, Device::Cpu, |to| {
        to.copy_from_slice(&[1, 2, 255]);
        Ok::<(), graft_torch::Error>(())
    });
    assert_eq!(floats(&bytes.unwrap()), [1.0, 2.0, 255.0]);
    assert_eq!(transfer::bytes(0, Device::Cpu, |_| Ok::<(), graft_torch::Error>(())).unwrap().size(), [0]);
    let refused = transfer::bytes(1, Device::Cpu, |_| Err(graft_torch::Error::from_tch("fill", &graft_torch::tch::TchError::Kind("no".into()))));
    assert!(refused.is_err());
    let mut number = Tensor::from(1.5f32);
    let later = Later::of(&number).unwrap();
    assert_eq!(later.wait().unwrap(), 1.5);
    let _ = number.fill_(2.0);
}

#[test]
fn a_step_is_left_out_when_gradients_are_not_finite() {
    let (scale, growth) = (Tensor::from(1024f32), Tensor::from(0i32));
    let p = [Tensor::from_slice(&[1.0f32, -2.0])];
    let (m, v, t) = ([p[0].zeros_like()], [p[0].zeros_like()], [Tensor::from(0f32)]);
    let step = AdamStep { lr: 0.1, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, eps: 1e-8, decay: WeightDecay::Coupled };
    for (gradient, after, scales, steps) in [([f32::INFINITY, 1.0], [1.0, -2.0], 512.0, 0.0), ([512.0, 1024.0], [0.9, -2.1], 1024.0, 1.0)] {
        let (gradients, skip) = ([Tensor::from_slice(&gradient)], Tensor::from(0f32));
        let inverse = scale.reciprocal();
        optim::unscale(&gradients, &inverse, &skip).unwrap();
        fused_adam(&p, &gradients, &AdamState { first: &m, second: &v, steps: &t }, step, OnDevice { lr: None, skip: Some(&skip) }).unwrap();
        optim::update_scale(&scale, &growth, &skip, 2.0, 1).unwrap();
        assert!(floats(&p[0]).iter().zip(after).all(|(got, expected)| (got - expected).abs() < 1e-6), "{:?}", floats(&p[0]));
        assert_eq!((floats(&scale)[0], floats(&t[0])[0]), (scales, steps));
    }
}

#[test]
fn a_build_without_cuda_records_no_graph() {
    if !ProcessGroup::has_nccl() {
        let error = Graph::record(|| Ok::<(), graft_torch::Error>(())).unwrap_err();
        assert!(error.message.contains("feature `cuda`"), "{error}");
    }
}
