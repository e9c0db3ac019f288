//! Published files whose tensors have other names than the model: older torchvision's, timm's where the model has
//! torchvision's. What is not known here keeps its name.

use crate::models::vit::{TIMM, TORCHVISION};
use graft_crds::Architecture;
use graft_crds::architectures::Family;
use graft_torch::tch::Tensor;
use std::collections::BTreeMap;

/// The tensors under the model's names.
pub(super) fn own(architecture: Architecture, tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, &Tensor> {
    tensors.iter().map(|(name, tensor)| (own_name(architecture, name).unwrap_or_else(|| name.clone()), tensor)).collect()
}

fn own_name(architecture: Architecture, name: &str) -> Option<String> {
    match architecture.family() {
        Family::DenseNet => without_dots(name),
        Family::Vit if architecture == Architecture::VitB16 => first_version(name).or_else(|| from_timm(name)),
        Family::ResNet | Family::Vgg | Family::MobileNetV1 | Family::MobileNetV2 | Family::MobileNetV3 => None,
        Family::EfficientNet | Family::ConvNeXt | Family::SqueezeNet | Family::Vit => None,
    }
}

/// torchvision's published DenseNets say `denselayer1.norm.1.weight` where its code says `denselayer1.norm1.weight`.
fn without_dots(name: &str) -> Option<String> {
    let (layer, rest) = name.split_once(".denselayer")?;
    let mut parts = rest.split('.');
    let (number, kind, index, last) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let known = ["norm", "conv"].contains(&kind) && ["1", "2"].contains(&index) && parts.next().is_none();
    known.then(|| format!("{layer}.denselayer{number}.{kind}{index}.{last}"))
}

/// torchvision's published ViTs call the two linear layers by names that its code has given up.
fn first_version(name: &str) -> Option<String> {
    let (layer, part) = name.split_once(".mlp.linear_")?;
    let (number, last) = part.split_once('.')?;
    match number {
        "1" => Some(format!("{layer}.mlp.0.{last}")),
        "2" => Some(format!("{layer}.mlp.3.{last}")),
        _ => None,
    }
}

/// A ViT tensor's name in torchvision from its name in timm.
fn from_timm(name: &str) -> Option<String> {
    let (theirs, ours) = (&TIMM, &TORCHVISION);
    if let Some(rest) = name.strip_prefix(theirs.layer) {
        let (number, part) = rest.split_once('.')?;
        number.parse::<usize>().ok()?;
        let pairs = [(theirs.input.0, ours.input.0), (theirs.input.1, ours.input.1), (theirs.output, ours.output)];
        let pairs = pairs.into_iter().chain([(theirs.norm1, ours.norm1), (theirs.norm2, ours.norm2)]);
        let mut pairs = pairs.chain([(theirs.mlp.0, ours.mlp.0), (theirs.mlp.1, ours.mlp.1)]);
        return pairs.find_map(|pair| renamed(part, pair)).map(|part| format!("{}{number}.{part}", ours.layer));
    }
    let pairs = [(theirs.class, ours.class), (theirs.position, ours.position), (theirs.patch, ours.patch)];
    pairs.into_iter().chain([(theirs.norm, ours.norm), (theirs.head, ours.head)]).find_map(|pair| renamed(name, pair))
}

/// The name with its beginning, or all of it, exchanged.
fn renamed(name: &str, (from, to): (&str, &str)) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_names_become_the_models() {
        for (architecture, theirs, ours) in [
            (
                Architecture::DenseNet121,
                "features.denseblock2.denselayer10.norm.2.running_var",
                "features.denseblock2.denselayer10.norm2.running_var",
            ),
            (Architecture::DenseNet121, "features.transition1.norm.weight", "features.transition1.norm.weight"),
            (Architecture::VitB16, "cls_token", "class_token"),
            (Architecture::VitB16, "pos_embed", "encoder.pos_embedding"),
            (Architecture::VitB16, "patch_embed.proj.bias", "conv_proj.bias"),
            (Architecture::VitB16, "blocks.11.attn.qkv.weight", "encoder.layers.encoder_layer_11.self_attention.in_proj_weight"),
            (Architecture::VitB16, "blocks.0.mlp.fc2.bias", "encoder.layers.encoder_layer_0.mlp.3.bias"),
            (Architecture::VitB16, "encoder.layers.encoder_layer_3.mlp.linear_2.bias", "encoder.layers.encoder_layer_3.mlp.3.bias"),
            (Architecture::VitB16, "norm.weight", "encoder.ln.weight"),
            (Architecture::VitB16, "head.bias", "heads.head.bias"),
            (Architecture::VitB16, "heads.head.bias", "heads.head.bias"),
            (Architecture::Dinov2S14, "blocks.0.norm1.bias", "blocks.0.norm1.bias"),
        ] {
            assert_eq!(own_name(architecture, theirs).unwrap_or_else(|| theirs.to_owned()), ours);
        }
    }
}
