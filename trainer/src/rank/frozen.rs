//! Frozen means frozen: a digest of every tensor that training must not touch, taken when the weights were loaded and again
//! at each checkpoint.

use std::collections::BTreeMap;

use graft_crds::contract::ExitReason;
use graft_torch::tch::{Device, Tensor};
use sha2::{Digest, Sha256};

use crate::event::Failure;
use crate::models::Model;

/// What the frozen tensors were when they came from the weights file.
pub(super) struct Frozen {
    digests: BTreeMap<String, [u8; 32]>,
}

impl Frozen {
    /// Every tensor of the model that is not among `moving`.
    pub(super) fn of(model: &Model, moving: &[(String, Tensor)]) -> Result<Self, Failure> {
        let moves = |name: &str| moving.iter().any(|(n, _)| n == name);
        let frozen = model.tensors().iter().filter(|t| !moves(&t.name));
        let digests = frozen.map(|t| Ok((t.name.clone(), digest(&t.tensor)?))).collect::<Result<_, Failure>>()?;
        Ok(Self { digests })
    }

    /// Every tensor but the head's.
    pub(super) fn backbone(model: &Model) -> Result<Self, Failure> {
        let head = model.tensors().iter().filter(|t| model.is_head(&t.name));
        Self::of(model, &head.map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect::<Vec<_>>())
    }

    /// How many there are, none of which has changed.
    ///
    /// # Errors
    /// One of them is not what it was.
    pub(super) fn check(&self, model: &Model) -> Result<usize, Failure> {
        for named in model.tensors() {
            if let Some(before) = self.digests.get(&named.name)
                && digest(&named.tensor)? != *before
            {
                let text = format!("frozen tensor {} is no longer what the weights file holds", named.name);
                return Err(Failure::new(ExitReason::Bug, "FrozenTensorChanged", text));
            }
        }
        Ok(self.digests.len())
    }
}

fn digest(tensor: &Tensor) -> Result<[u8; 32], Failure> {
    let here = tensor.detach().f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; here.numel() * here.kind().elt_size_in_bytes()];
    here.f_copy_data_u8(&mut bytes, here.numel())?;
    Ok(Sha256::digest(&bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use graft_crds::Architecture;
    use graft_torch::tch::no_grad;

    #[test]
    fn a_frozen_tensor_that_moves_is_named_and_a_trained_one_may_move() {
        let architecture = Architecture::MobileNetV1x025;
        let model = models::build(architecture, 2, architecture.padding(), Device::Cpu, 0).unwrap();
        let backbone = Frozen::backbone(&model).unwrap();
        let add = |name: &str| {
            let named = model.tensors().iter().find(|t| t.name == name).unwrap();
            no_grad(|| drop(named.tensor.shallow_clone().f_add_scalar_(1e-6).unwrap()));
        };
        add("27.conv.bias");
        assert_eq!(backbone.check(&model).unwrap(), 54);
        let moving: Vec<_> = model.trainable().filter(|t| t.group == "26").map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect();
        let rest = Frozen::of(&model, &moving).unwrap();
        add("26.conv.bias");
        assert_eq!(rest.check(&model).unwrap(), 54);
        let error = backbone.check(&model).unwrap_err();
        assert!(error.reason == "FrozenTensorChanged" && error.message.contains("26.conv.bias"), "{error}");
    }
}
