//! Vision transformers, Dosovitskiy et al. 2020, arXiv:2010.11929: ViT-S/16 as timm has it, ViT-B/16 as torchvision has it,
//! and DINOv2's, Oquab et al. 2023, arXiv:2304.07193, as timm has them. Their features are the last class token. An input of
//! another size than the weights' gets its positions resampled.

use super::builder::{Bias, Builder, ConvShape, Init};
use super::layers::Activation::Gelu;
use super::layers::Channels::Last;
use super::layers::{Layer, Residual, Tokens};
use super::{Description, HeadShape, Stage};
use graft_torch::tch::TchError;

/// Layers in every one of them.
const DEPTH: usize = 12;

/// The numbers that differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Of a token.
    pub(super) width: i64,
    pub(super) heads: i64,
    /// Side of a patch in pixels.
    pub(super) patch: i64,
    /// Side in patches of the input that positions are stored for.
    pub(super) side: i64,
}

/// Whether a learned factor stands behind each branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branches {
    Plain,
    Scaled,
}

/// What the tensors are called.
pub(crate) struct Names {
    pub(crate) class: &'static str,
    pub(crate) position: &'static str,
    pub(crate) patch: &'static str,
    /// What stands before a layer's number.
    pub(crate) layer: &'static str,
    pub(crate) norm1: &'static str,
    pub(crate) input: (&'static str, &'static str),
    pub(crate) output: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) mlp: (&'static str, &'static str),
    pub(crate) norm: &'static str,
    pub(crate) head: &'static str,
}

pub(crate) const TIMM: Names = Names {
    class: "cls_token",
    position: "pos_embed",
    patch: "patch_embed.proj",
    layer: "blocks.",
    norm1: "norm1",
    input: ("attn.qkv.weight", "attn.qkv.bias"),
    output: "attn.proj",
    norm2: "norm2",
    mlp: ("mlp.fc1", "mlp.fc2"),
    norm: "norm",
    head: "head",
};

pub(crate) const TORCHVISION: Names = Names {
    class: "class_token",
    position: "encoder.pos_embedding",
    patch: "conv_proj",
    layer: "encoder.layers.encoder_layer_",
    norm1: "ln_1",
    input: ("self_attention.in_proj_weight", "self_attention.in_proj_bias"),
    output: "self_attention.out_proj",
    norm2: "ln_2",
    mlp: ("mlp.0", "mlp.3"),
    norm: "encoder.ln",
    head: "heads.head",
};

pub(super) fn describe(b: &mut Builder, names: &Names, shape: Shape, branches: Branches) -> Result<Description, TchError> {
    b.init = Init::Deviation(0.02);
    let Shape { width, patch, side, .. } = shape;
    let patches = ConvShape { stride: patch, padding: 0, bias: Bias::Yes, ..ConvShape::new(3, width, patch) };
    let class = b.drawn(names.class, &[1, 1, width], 1e-6)?;
    // timm has the positions before the convolution, torchvision, as part of its encoder, behind it.
    let position = |b: &mut Builder| b.drawn(names.position, &[1, 1 + side * side, width], 0.02);
    let (position, conv) = if names.position.contains('.') {
        let conv = b.conv(names.patch, patches)?;
        (position(b)?, conv)
    } else {
        (position(b)?, b.conv(names.patch, patches)?)
    };
    let mut stages = vec![Stage::new(vec![Layer::Conv(conv), Layer::Tokens(Tokens { class, position })])];
    for i in 0..DEPTH {
        stages.push(Stage::new(layer(b, names, &format!("{}{i}", names.layer), shape, branches)?));
    }
    let pool = vec![b.layer_norm(names.norm, width, Last)?, Layer::ClassToken];
    Ok(Description { stages, pool, head_name: names.head, head_shape: HeadShape::Linear, dropout: 0.0, width })
}

/// Attention among the tokens, then two linear layers for each; both on normalised tokens and added to them.
fn layer(b: &mut Builder, names: &Names, name: &str, shape: Shape, branches: Branches) -> Result<Vec<Layer>, TchError> {
    let width = shape.width;
    let at = |part: &str| format!("{name}.{part}");
    let input = (at(names.input.0), at(names.input.1));
    let output = (at(&format!("{}.weight", names.output)), at(&format!("{}.bias", names.output)));
    let mut attention =
        vec![b.layer_norm(&at(names.norm1), width, Last)?, b.attention((&input.0, &input.1), (&output.0, &output.1), width, shape.heads)?];
    let scale = |b: &mut Builder, part: &str| match branches {
        Branches::Plain => Ok(None),
        Branches::Scaled => b.constant(&at(&format!("{part}.gamma")), &[width], 1e-5).map(|factor| Some(Layer::Scale(factor))),
    };
    attention.extend(scale(b, "ls1")?);
    let mut mlp = vec![
        b.layer_norm(&at(names.norm2), width, Last)?,
        b.linear(&at(names.mlp.0), width, 4 * width)?,
        Layer::Activation(Gelu),
        b.linear(&at(names.mlp.1), 4 * width, width)?,
    ];
    mlp.extend(scale(b, "ls2")?);
    let residual = |main| Layer::Residual(Residual { main, shortcut: Vec::new() });
    Ok(vec![residual(attention), residual(mlp)])
}
