use super::*;

fn model(architecture: Architecture) -> Model {
    build(architecture, 3, architecture.padding(), Device::Cpu, 5).unwrap()
}

fn images(n: i64, side: i64) -> Tensor {
    Tensor::randn([n, 3, side, side], (tch::Kind::Float, Device::Cpu))
}

#[test]
fn feature_width_is_the_table_s() {
    for &a in Architecture::ALL {
        if a.family() == Family::Vgg && a != Architecture::Vgg11 || a.feature_width() >= 768 && a.family() == Family::Vit {
            continue; // A third of a gigabyte and more each; they share their smaller sisters' code.
        }
        let m = model(a);
        assert_eq!(m.feature_width(), a.feature_width() as i64, "{}", a.name());
        let x = images(1, 5 * i64::from(a.patch()).max(13));
        let f = m.features(&x, Mode::Evaluate).unwrap();
        assert_eq!(f.size(), [1, m.feature_width()], "{}", a.name());
        let (direct, by_features) = (m.forward(&x, Mode::Evaluate).unwrap(), m.head(&f, Mode::Evaluate).unwrap());
        assert!(direct.allclose(&by_features, 1e-6, 1e-6, false), "{}", a.name());
        assert_eq!(direct.size(), [1, 3]);
    }
}

#[test]
fn the_same_seed_gives_the_same_weights() {
    let (a, b) = (model(Architecture::MobileNetV2), model(Architecture::MobileNetV2));
    assert!(a.tensors().iter().zip(b.tensors()).all(|(a, b)| a.name == b.name && a.tensor.equal(&b.tensor)));
    let c = build(Architecture::MobileNetV2, 3, Padding::Symmetric, Device::Cpu, 6).unwrap();
    assert!(!a.head.weight.equal(&c.head.weight));
    let mut d = build(Architecture::MobileNetV2, 3, Padding::Symmetric, Device::Cpu, 5).unwrap();
    d.reset_head(6).unwrap();
    assert!(d.head.weight.equal(&c.head.weight) && d.head.bias.equal(&c.head.bias));
    let bound = 1.0 / (1280f64).sqrt();
    assert!(a.head.weight.abs().max().double_value(&[]) <= bound);
    assert!(a.head.weight.abs().max().double_value(&[]) > 0.9 * bound);
    assert!(a.head.weight.mean(tch::Kind::Float).double_value(&[]).abs() < 0.05 * bound);
    // Variance 2 / fan-out of a convolution: 1280 filters of 1 × 1.
    let last = &a.tensors().iter().find(|t| t.name == "features.18.0.weight").unwrap().tensor;
    assert!((last.var(true).double_value(&[]) * 1280.0 / 2.0 - 1.0).abs() < 0.02);
}

#[test]
fn layers_are_trained_by_prefix() {
    let m = model(Architecture::ResNet18);
    assert_eq!(m.groups(), ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]);
    let summary = m.set_trainable(&["layer4.1", "layer3.0.bn1"]).unwrap();
    assert_eq!(summary.groups, ["layer3", "layer4", "fc"]);
    let names: Vec<_> = m.trainable().map(|t| t.name.as_str()).collect();
    assert!(names.contains(&"layer4.1.conv2.weight") && names.contains(&"layer3.0.bn1.bias"));
    assert!(!names.contains(&"layer4.0.conv1.weight"));
    assert_eq!(summary.trained + summary.frozen, m.parameters().map(|t| t.tensor.numel()).sum::<usize>());
    assert_eq!(m.set_trainable(&["*"]).unwrap().frozen, 0);
    assert_eq!(m.set_trainable::<&str>(&[]).unwrap().groups, ["fc"]);
    let error = m.set_trainable(&["layr4"]).unwrap_err().to_string();
    assert!(error.contains("\"layr4\", did you mean \"layer4\"?") && error.contains("layer4, fc"), "{error}");
}

#[test]
fn what_is_frozen_stays_and_gets_no_gradient() {
    let m = model(Architecture::ResNet18);
    m.set_trainable(&["layer4"]).unwrap();
    let before: Vec<Tensor> = m.tensors().iter().map(|t| t.tensor.copy()).collect();
    let loss = m.forward(&images(4, 64), Mode::Train).unwrap().square().mean(tch::Kind::Float);
    graft_torch::device::backward(&loss).unwrap();
    for (named, before) in m.tensors().iter().zip(&before) {
        let trained = named.group == "layer4" || named.group == "fc";
        match named.kind {
            Kind::Parameter => assert_eq!(named.tensor.grad().defined(), trained, "{}", named.name),
            Kind::Buffer => assert_eq!(!named.tensor.equal(before), trained, "{}", named.name),
        }
    }
}

#[test]
fn a_frozen_beginning_is_not_recorded() {
    let m = model(Architecture::Vgg11);
    m.set_trainable(&["classifier.3"]).unwrap();
    let x = images(2, 64).set_requires_grad(true);
    // Dropout of the frozen part is off, so two passes agree.
    let (a, b) = (m.features(&x, Mode::Train).unwrap(), m.features(&x, Mode::Train).unwrap());
    assert!(a.requires_grad() && a.equal(&b));
    graft_torch::device::backward(&a.sum(tch::Kind::Float)).unwrap();
    assert!(!x.grad().defined());
    m.set_trainable::<&str>(&[]).unwrap();
    assert!(!m.features(&x, Mode::Train).unwrap().requires_grad());
    // The head's own dropout stays.
    let f = a.detach();
    assert!(!m.head(&f, Mode::Train).unwrap().equal(&m.head(&f, Mode::Evaluate).unwrap()));
}

#[test]
fn channels_last_changes_no_result() {
    let mut m = model(Architecture::MobileNetV2);
    let x = images(2, 64);
    let before = m.forward(&x, Mode::Evaluate).unwrap();
    m.set_channels_last().unwrap();
    let after = m.forward(&memory::to_channels_last(&x).unwrap(), Mode::Evaluate).unwrap();
    assert!(before.allclose(&after, 1e-4, 1e-5, false));
    // The handles that the layers hold are the listed ones.
    assert!(m.parameters().filter(|t| t.tensor.dim() == 4).all(|t| memory::is_channels_last(&t.tensor).unwrap()));
}

#[test]
fn folding_what_is_frozen_changes_no_result() {
    for architecture in [Architecture::ResNet18, Architecture::DenseNet121, Architecture::MobileNetV3Small, Architecture::EfficientNetB0] {
        let mut m = model(architecture);
        // Statistics and scales that are not those of fresh layers.
        tch::no_grad(|| {
            for named in m.tensors() {
                let t = || named.tensor.shallow_clone();
                if named.name.ends_with("running_mean") {
                    let _ = t().uniform_(-0.2, 0.2);
                } else if named.name.ends_with("running_var") || named.tensor.dim() == 1 && named.name.ends_with("weight") {
                    let _ = t().uniform_(0.5, 1.5);
                }
            }
        });
        m.loaded();
        let x = images(2, 64);
        m.set_trainable(&["*"]).unwrap();
        let whole = m.features(&x, Mode::Evaluate).unwrap().detach();
        m.set_trainable::<&str>(&[]).unwrap();
        let folded = m.features(&x, Mode::Evaluate).unwrap();
        let (error, scale) = ((&folded - &whole).abs().max().double_value(&[]), whole.abs().max().double_value(&[]));
        assert!(error <= 1e-4 * scale && error > 0.0, "{}: {error} of {scale}", architecture.name());
        // New values in the tensors are seen once that is said.
        tch::no_grad(|| {
            let last = m.tensors().iter().rev().find(|t| t.tensor.dim() == 4).unwrap();
            let _ = last.tensor.shallow_clone().zero_();
        });
        m.loaded();
        assert!((m.features(&x, Mode::Evaluate).unwrap() - &folded).abs().max().double_value(&[]) > 1e-3 * scale);
    }
}

#[test]
fn a_wrong_input_is_an_error_and_not_a_panic() {
    let m = model(Architecture::SqueezeNet11);
    let grey = Tensor::zeros([1, 1, 64, 64], (tch::Kind::Float, Device::Cpu));
    let error = m.features(&grey, Mode::Evaluate).unwrap_err().to_string();
    assert!(error.starts_with("forward pass: "), "{error}");
    assert!(build(Architecture::ResNet18, 0, Padding::Symmetric, Device::Cpu, 1).is_err());
}

#[test]
fn layers_of_a_transformer_are_groups() {
    for (architecture, layer, last) in
        [(Architecture::VitS16, "blocks.11", "norm"), (Architecture::VitB16, "encoder.layers.encoder_layer_11", "encoder.ln")]
    {
        let m = assemble(architecture, 3, Builder::new(Device::Cpu, Padding::Symmetric, Values::Outline)).unwrap();
        let groups = m.groups();
        assert!(groups.iter().any(|g| g == layer) && groups[groups.len() - 2] == last, "{groups:?}");
    }
}

#[test]
fn an_outline_has_the_shapes_and_the_walk_the_features() {
    for &a in Architecture::ALL {
        let m = assemble(a, 3, Builder::new(Device::Cpu, Padding::Symmetric, Values::Outline)).unwrap();
        let mut walk = layers::Walk { shape: vec![3, 224, 224], macs: 0 };
        m.stages.iter().for_each(|stage| walk.through(&stage.0));
        walk.through(&m.pool);
        assert_eq!(walk.shape, [a.feature_width() as i64], "{}", a.name());
        assert!(walk.macs > 0);
    }
}
