//! What needs a GPU: NCCL with one rank, the reducer on it, a group that is given up and formed anew, bfloat16, and a training step
//! as a CUDA graph. Without the feature `cuda` there is nothing here to test; with it a GPU must be there.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

use graft_torch::device::{self, AutocastGuard, AutocastType, Determinism};
use graft_torch::optim::{Momentum, OnDevice, SgdStep, SgdTurn, fused_sgd};
use graft_torch::tch::{Device, Kind, Tensor};
use graft_torch::transfer::{self, Later, on_device};
use graft_torch::{Graph, Interface, Parameter, ProcessGroup, Reducer, ReducerSettings, Reduction, Store, graph, memory};
use std::time::Duration;

const GPU: Device = Device::Cuda(0);
const PATIENCE: Duration = Duration::from_secs(60);

fn group(store: &Store, generation: &str) -> ProcessGroup {
    device::set_cuda_device(0).unwrap();
    ProcessGroup::for_device(GPU, &store.prefix(generation).unwrap(), 0, 1, PATIENCE, &Interface::Named("lo".into())).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// The loss of a linear map and the gradient of its weight.
fn backward(weight: &Tensor, input: &Tensor) -> f64 {
    let loss = input.matmul(weight).square().mean(Kind::Float);
    device::backward(&loss).unwrap();
    Later::of(&loss.detach()).unwrap().wait().unwrap()
}

#[test]
fn nccl_reduces_and_a_group_is_formed_anew() {
    let store = Store::serve(PATIENCE).unwrap();
    let first = group(&store, "generation-0");
    let ones = Tensor::ones([3], (Kind::Float, GPU));
    first.all_reduce(&ones, Reduction::Sum).unwrap();
    assert_eq!(numbers(&ones), [1.0; 3]);
    assert_eq!(numbers(&first.all_gather(&ones).unwrap()[0]), [1.0; 3]);
    first.barrier().unwrap();
    first.abort().unwrap();
    drop(first);
    let second = group(&store, "generation-1");
    second.all_reduce(&ones, Reduction::Max).unwrap();
    assert_eq!(numbers(&ones), [1.0; 3]);
}

#[test]
fn the_reducer_averages_over_one_rank() {
    let store = Store::serve(PATIENCE).unwrap();
    let group = group(&store, "generation-0");
    let weight = Tensor::randn([4, 2], (Kind::Float, GPU)).set_requires_grad(true);
    let input = Tensor::randn([8, 4], (Kind::Float, GPU));
    backward(&weight, &input);
    let expected = numbers(&weight.grad());
    memory::zero_grads_to_none(&[&weight]).unwrap();
    let mut reducer = Reducer::new(&group, &[Parameter { name: "weight", tensor: &weight }], ReducerSettings::default()).unwrap();
    for _ in 0..3 {
        memory::zero_grads_to_none(&[&weight]).unwrap();
        reducer.begin_step().unwrap();
        let loss = input.matmul(&weight).square().mean(Kind::Float);
        reducer.prepare_backward::<Tensor>(&[]).unwrap();
        device::backward(&loss).unwrap();
        reducer.finish_step().unwrap();
        let got = numbers(&weight.grad());
        assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} {expected:?}");
    }
}

#[test]
fn bytes_go_there_and_numbers_come_back() {
    for size in [1usize, 1000, 40_000_000] {
        let there = transfer::bytes(size, GPU, |to| {
            to.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i % 251) as u8);
            Ok::<(), graft_torch::Error>(())
        });
        let sum = there.unwrap().to_kind(Kind::Int64).sum(Kind::Int64);
        let expected: u64 = (0..size as u64).map(|i| i % 251).sum();
        assert_eq!(Later::of(&sum).unwrap().wait().unwrap(), expected as f64);
    }
}

#[test]
fn autocast_computes_in_bfloat16() {
    let x = Tensor::randn([64, 64], (Kind::Float, GPU));
    let _guard = AutocastGuard::new(GPU, AutocastType::BFloat16).unwrap();
    assert_eq!(x.matmul(&x).kind(), Kind::BFloat16);
}

#[test]
fn a_recorded_step_is_the_step() {
    device::set_determinism(Determinism::Fast).unwrap();
    device::set_cuda_device(0).unwrap();
    graph::leave_default_stream(0).unwrap();
    let start = Tensor::randn([4, 2], (Kind::Float, GPU));
    let inputs: Vec<Tensor> = (0..8).map(|_| Tensor::randn([8, 4], (Kind::Float, GPU))).collect();
    let rate = Tensor::from(0.0f32).to_device(GPU);
    let step = |weight: &Tensor, momentum: &Tensor, input: &Tensor| -> Result<Tensor, graft_torch::Error> {
        memory::zero_grads_to_none(&[weight])?;
        let loss = input.matmul(weight).square().mean(Kind::Float);
        device::backward(&loss)?;
        let numbers = SgdStep { lr: 9.0, momentum: 0.9, weight_decay: 0.01, kind: Momentum::Nesterov, turn: SgdTurn::Later };
        fused_sgd(&[weight.shallow_clone()], &[weight.grad()], &[momentum.shallow_clone()], numbers, OnDevice { lr: Some(&rate), skip: None })?;
        Ok(loss.detach())
    };
    let fresh = || (start.copy().set_requires_grad(true), start.zeros_like());
    let ((a, a_momentum), (b, b_momentum)) = (fresh(), fresh());
    let lr = |k: usize| 0.1 / (1.0 + k as f64);
    let mut expected = Vec::new();
    for (k, input) in inputs.iter().enumerate() {
        let _ = rate.shallow_clone().fill_(lr(k));
        expected.push(numbers(&step(&a, &a_momentum, input).unwrap())[0]);
    }
    let mut got = Vec::new();
    let place = inputs[0].copy();
    let mut recorded = None;
    for (k, input) in inputs.iter().enumerate() {
        let _ = rate.shallow_clone().fill_(lr(k));
        if k < 3 {
            got.push(numbers(&step(&b, &b_momentum, input).unwrap())[0]);
            continue;
        }
        let (graph, loss) = recorded.get_or_insert_with(|| Graph::record(|| step(&b, &b_momentum, &place)).unwrap());
        place.shallow_clone().copy_(&on_device(input.to_device(Device::Cpu), GPU).unwrap());
        graph.replay().unwrap();
        got.push(Later::of(loss).unwrap().wait().unwrap());
    }
    assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs()), "{got:?} {expected:?}");
    assert!(numbers(&a).iter().zip(numbers(&b)).all(|(a, b)| (a - b).abs() < 1e-5));
}
