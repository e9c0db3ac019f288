//! Which numbers make each architecture of a family's description.

use super::builder::Builder;
use super::{Description, convnext, densenet, efficientnet, mobilenet, mobilenet_v3, resnet, squeezenet, vgg, vit};
use graft_crds::Architecture;
use graft_torch::tch::TchError;
use resnet::Block;
use vgg::Norms::{With, Without};

/// An architecture's layers. One line for each; with the line in graft-crds' table that is all an architecture of a known
/// family needs.
pub(super) fn describe(architecture: Architecture, b: &mut Builder) -> Result<Description, TchError> {
    match architecture {
        Architecture::ResNet18 => resnet::describe(b, Block::Basic, [2, 2, 2, 2]),
        Architecture::ResNet34 => resnet::describe(b, Block::Basic, [3, 4, 6, 3]),
        Architecture::ResNet50 => resnet::describe(b, Block::BOTTLENECK, [3, 4, 6, 3]),
        Architecture::ResNet101 => resnet::describe(b, Block::BOTTLENECK, [3, 4, 23, 3]),
        Architecture::ResNeXt50 => resnet::describe(b, Block::Bottleneck { groups: 32, width: 4 }, [3, 4, 6, 3]),
        Architecture::Vgg11 => vgg::describe(b, [1, 1, 2, 2, 2], Without),
        Architecture::Vgg11Bn => vgg::describe(b, [1, 1, 2, 2, 2], With),
        Architecture::Vgg13 => vgg::describe(b, [2, 2, 2, 2, 2], Without),
        Architecture::Vgg13Bn => vgg::describe(b, [2, 2, 2, 2, 2], With),
        Architecture::Vgg16 => vgg::describe(b, [2, 2, 3, 3, 3], Without),
        Architecture::Vgg16Bn => vgg::describe(b, [2, 2, 3, 3, 3], With),
        Architecture::Vgg19 => vgg::describe(b, [2, 2, 4, 4, 4], Without),
        Architecture::Vgg19Bn => vgg::describe(b, [2, 2, 4, 4, 4], With),
        Architecture::DenseNet121 => densenet::describe(b, [6, 12, 24, 16]),
        Architecture::DenseNet169 => densenet::describe(b, [6, 12, 32, 32]),
        Architecture::MobileNetV1x100 => mobilenet::describe_v1(b, 4),
        Architecture::MobileNetV1x075 => mobilenet::describe_v1(b, 3),
        Architecture::MobileNetV1x050 => mobilenet::describe_v1(b, 2),
        Architecture::MobileNetV1x025 => mobilenet::describe_v1(b, 1),
        Architecture::MobileNetV2 => mobilenet::describe_v2(b),
        Architecture::MobileNetV3Small => mobilenet_v3::describe(b, &mobilenet_v3::SMALL, 1024),
        Architecture::MobileNetV3Large => mobilenet_v3::describe(b, &mobilenet_v3::LARGE, 1280),
        Architecture::EfficientNetB0 => efficientnet::describe(b, 1.0, 1.0, 0.2),
        Architecture::EfficientNetB1 => efficientnet::describe(b, 1.0, 1.1, 0.2),
        Architecture::EfficientNetB2 => efficientnet::describe(b, 1.1, 1.2, 0.3),
        Architecture::EfficientNetB3 => efficientnet::describe(b, 1.2, 1.4, 0.3),
        Architecture::EfficientNetB4 => efficientnet::describe(b, 1.4, 1.8, 0.4),
        Architecture::ConvNeXtTiny => convnext::describe(b, 96, [3, 3, 9, 3], 0.1),
        Architecture::ConvNeXtSmall => convnext::describe(b, 96, [3, 3, 27, 3], 0.4),
        Architecture::ConvNeXtBase => convnext::describe(b, 128, [3, 3, 27, 3], 0.5),
        Architecture::SqueezeNet10 => squeezenet::describe_1_0(b),
        Architecture::SqueezeNet11 => squeezenet::describe_1_1(b),
        Architecture::VitS16 => vit::describe(b, &vit::TIMM, vit::Shape { width: 384, heads: 6, patch: 16, side: 14 }, vit::Branches::Plain),
        Architecture::VitB16 => vit::describe(b, &vit::TORCHVISION, vit::Shape { width: 768, heads: 12, patch: 16, side: 14 }, vit::Branches::Plain),
        Architecture::Dinov2S14 => vit::describe(b, &vit::TIMM, vit::Shape { width: 384, heads: 6, patch: 14, side: 37 }, vit::Branches::Scaled),
        Architecture::Dinov2B14 => vit::describe(b, &vit::TIMM, vit::Shape { width: 768, heads: 12, patch: 14, side: 37 }, vit::Branches::Scaled),
    }
}
