//! Frozen means frozen: a digest of every tensor that training must not touch, taken when the weights were loaded and again
//! at each checkpoint.

use std::collections::BTreeMap;

use graft_crds::contract::ExitReason;
use graft_torch::tch::{Device, Tensor};
use sha2::{Digest, Sha256};

use super::Recipe;
use crate::event::Failure;

/// What the frozen tensors were when they came from the weights file.
pub(super) struct Frozen {
    digests: BTreeMap<String, [u8; 32]>,
}

impl Frozen {
    /// Every tensor of the model that is not among `moving`.
    pub(super) fn of(recipe: &Recipe, moving: &[(String, Tensor)]) -> Result<Self, Failure> {
        let moves = |name: &str| moving.iter().any(|(n, _)| n == name);
        let frozen = recipe.model.tensors().iter().filter(|t| !moves(&t.name));
        let digests = frozen.map(|t| Ok((t.name.clone(), digest(&t.tensor)?))).collect::<Result<_, Failure>>()?;
        Ok(Self { digests })
    }

    /// Every tensor but the head's.
    pub(super) fn backbone(recipe: &Recipe) -> Result<Self, Failure> {
        let head = recipe.model.tensors().iter().filter(|t| recipe.model.is_head(&t.name));
        Self::of(recipe, &head.map(|t| (t.name.clone(), t.tensor.shallow_clone())).collect::<Vec<_>>())
    }

    /// How many there are, none of which has changed.
    ///
    /// # Errors
    /// One of them is not what it was.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<usize, Failure> {
        for named in recipe.model.tensors() {
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
