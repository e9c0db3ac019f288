//! The backbones that Graft can train: their names in the API and the facts about each that do not need torch.
//! An architecture's layers are in the trainer's `models`; this table is what the schema and the documentation show.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::Interpolation::{self, Bicubic, Bilinear};

/// How a convolution with stride pads its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Padding {
    /// The same amount on both sides, as PyTorch does.
    Symmetric,
    /// TensorFlow's SAME: the odd pixel goes to the bottom and to the right.
    Same,
}

macro_rules! architectures {
    ($($variant:ident, $name:literal, $family:ident, $features:literal, $size:literal, $resize:literal, $interpolation:ident;)*) => {
        /// A backbone architecture, by torchvision's name where torchvision has it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Architecture {
            $(#[doc = $name] #[serde(rename = $name)] $variant,)*
        }

        impl Architecture {
            /// Every architecture, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The family that builds it.
            #[must_use]
            pub fn family(self) -> Family {
                match self { $(Self::$variant => Family::$family),* }
            }

            /// Width of the feature vector before the head.
            #[must_use]
            pub fn feature_width(self) -> usize {
                match self { $(Self::$variant => $features),* }
            }

            /// Side in pixels of the square input that published weights were trained on.
            #[must_use]
            pub fn input_size(self) -> u32 {
                match self { $(Self::$variant => $size),* }
            }

            /// Length in pixels to which the shorter side of an image was resized before published weights were tested on
            /// the square in its centre.
            #[must_use]
            pub fn resize(self) -> u32 {
                match self { $(Self::$variant => $resize),* }
            }

            /// The filter that images were resized with for published weights.
            #[must_use]
            pub fn interpolation(self) -> Interpolation {
                match self { $(Self::$variant => $interpolation),* }
            }
        }
    };
}

/// Architectures that share one description of their layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// He et al. 2015, arXiv:1512.03385; Xie et al. 2016, arXiv:1611.05431, with groups.
    ResNet,
    /// Simonyan and Zisserman 2014, arXiv:1409.1556.
    Vgg,
    /// Huang et al. 2016, arXiv:1608.06993.
    DenseNet,
    /// Howard et al. 2017, arXiv:1704.04861; batch normalisation folded into the convolutions.
    MobileNetV1,
    /// Sandler et al. 2018, arXiv:1801.04381.
    MobileNetV2,
    /// Howard et al. 2019, arXiv:1905.02244.
    MobileNetV3,
    /// Tan and Le 2019, arXiv:1905.11946.
    EfficientNet,
    /// Liu et al. 2022, arXiv:2201.03545.
    ConvNeXt,
    /// Iandola et al. 2016, arXiv:1602.07360.
    SqueezeNet,
    /// Dosovitskiy et al. 2020, arXiv:2010.11929; Oquab et al. 2023, arXiv:2304.07193, with scaled branches.
    Vit,
}

// Name, family, features, input size, resize, interpolation; the last three of torchvision's first ImageNet weights, or timm's.
architectures! {
    ResNet18, "resnet18", ResNet, 512, 224, 256, Bilinear;
    ResNet34, "resnet34", ResNet, 512, 224, 256, Bilinear;
    ResNet50, "resnet50", ResNet, 2048, 224, 256, Bilinear;
    ResNet101, "resnet101", ResNet, 2048, 224, 256, Bilinear;
    ResNeXt50, "resnext50_32x4d", ResNet, 2048, 224, 256, Bilinear;
    Vgg11, "vgg11", Vgg, 4096, 224, 256, Bilinear;
    Vgg11Bn, "vgg11_bn", Vgg, 4096, 224, 256, Bilinear;
    Vgg13, "vgg13", Vgg, 4096, 224, 256, Bilinear;
    Vgg13Bn, "vgg13_bn", Vgg, 4096, 224, 256, Bilinear;
    Vgg16, "vgg16", Vgg, 4096, 224, 256, Bilinear;
    Vgg16Bn, "vgg16_bn", Vgg, 4096, 224, 256, Bilinear;
    Vgg19, "vgg19", Vgg, 4096, 224, 256, Bilinear;
    Vgg19Bn, "vgg19_bn", Vgg, 4096, 224, 256, Bilinear;
    DenseNet121, "densenet121", DenseNet, 1024, 224, 256, Bilinear;
    DenseNet169, "densenet169", DenseNet, 1664, 224, 256, Bilinear;
    MobileNetV1x100, "mobilenet_v1_100", MobileNetV1, 1024, 224, 256, Bilinear;
    MobileNetV1x075, "mobilenet_v1_075", MobileNetV1, 768, 192, 219, Bilinear;
    MobileNetV1x050, "mobilenet_v1_050", MobileNetV1, 512, 160, 182, Bilinear;
    MobileNetV1x025, "mobilenet_v1_025", MobileNetV1, 256, 128, 146, Bilinear;
    MobileNetV2, "mobilenet_v2", MobileNetV2, 1280, 224, 256, Bilinear;
    MobileNetV3Small, "mobilenet_v3_small", MobileNetV3, 1024, 224, 256, Bilinear;
    MobileNetV3Large, "mobilenet_v3_large", MobileNetV3, 1280, 224, 256, Bilinear;
    EfficientNetB0, "efficientnet_b0", EfficientNet, 1280, 224, 256, Bicubic;
    EfficientNetB1, "efficientnet_b1", EfficientNet, 1280, 240, 256, Bicubic;
    EfficientNetB2, "efficientnet_b2", EfficientNet, 1408, 288, 288, Bicubic;
    EfficientNetB3, "efficientnet_b3", EfficientNet, 1536, 300, 320, Bicubic;
    EfficientNetB4, "efficientnet_b4", EfficientNet, 1792, 380, 384, Bicubic;
    ConvNeXtTiny, "convnext_tiny", ConvNeXt, 768, 224, 236, Bilinear;
    ConvNeXtSmall, "convnext_small", ConvNeXt, 768, 224, 230, Bilinear;
    ConvNeXtBase, "convnext_base", ConvNeXt, 1024, 224, 232, Bilinear;
    SqueezeNet10, "squeezenet1_0", SqueezeNet, 512, 224, 256, Bilinear;
    SqueezeNet11, "squeezenet1_1", SqueezeNet, 512, 224, 256, Bilinear;
    VitS16, "vit_small_patch16_224", Vit, 384, 224, 248, Bicubic;
    VitB16, "vit_b_16", Vit, 768, 224, 256, Bilinear;
    Dinov2S14, "vit_small_patch14_dinov2", Vit, 384, 518, 518, Bicubic;
    Dinov2B14, "vit_base_patch14_dinov2", Vit, 768, 518, 518, Bicubic;
}

impl Architecture {
    /// The padding that published weights of this architecture were trained with. MobileNetV1's come from
    /// TensorFlow; all others from PyTorch.
    #[must_use]
    pub fn padding(self) -> Padding {
        match self.family() {
            Family::MobileNetV1 => Padding::Same,
            Family::ResNet | Family::Vgg | Family::DenseNet | Family::MobileNetV2 | Family::MobileNetV3 => Padding::Symmetric,
            Family::EfficientNet | Family::ConvNeXt | Family::SqueezeNet | Family::Vit => Padding::Symmetric,
        }
    }

    /// Mean and standard deviation per channel of inputs scaled to [0, 1]: ImageNet's for most, 0.5 and 0.5 (that is
    /// [−1, 1]) for weights born in TensorFlow or, as timm's ViT-S/16, in JAX.
    #[must_use]
    pub fn normalisation(self) -> ([f64; 3], [f64; 3]) {
        if self.family() == Family::MobileNetV1 || self == Self::VitS16 {
            return ([0.5; 3], [0.5; 3]);
        }
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    }

    /// What the side of the input must be a multiple of: the side in pixels of a patch that becomes a token, 1 for networks
    /// without patches.
    #[must_use]
    pub fn patch(self) -> u32 {
        if self.family() != Family::Vit {
            return 1;
        }
        if self == Self::Dinov2S14 || self == Self::Dinov2B14 { 14 } else { 16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_survive_serde() {
        let names: std::collections::BTreeSet<_> = Architecture::ALL.iter().map(|a| a.name()).collect();
        assert_eq!(names.len(), Architecture::ALL.len());
        for a in Architecture::ALL {
            let json = serde_json::to_string(a).unwrap();
            assert_eq!(json, format!("{:?}", a.name()));
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), *a);
        }
    }

    #[test]
    fn preprocessing_is_the_published_weights() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/reference/goldens/published.json");
        let published: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let published = published.as_object().unwrap();
        for a in Architecture::ALL.iter().filter(|a| a.family() != Family::MobileNetV1) {
            let (mean, std) = a.normalisation();
            let ours =
                serde_json::json!({"size": a.input_size(), "resize": a.resize(), "interpolation": a.interpolation(), "mean": mean, "std": std});
            for (key, value) in ours.as_object().unwrap() {
                assert_eq!(*value, published[a.name()][key], "{} {key}", a.name());
            }
            assert_eq!(a.input_size() % a.patch(), 0);
        }
    }
}
