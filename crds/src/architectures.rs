//! The backbones that Graft can train: their names in the API and the facts about each that do not need torch.
//! An architecture's layers are in the trainer's `models`; this table is what the schema and the documentation show.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    ($($variant:ident, $name:literal, $family:ident, $features:literal, $size:literal;)*) => {
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
        }
    };
}

/// Architectures that share one description of their layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// He et al. 2015, arXiv:1512.03385.
    ResNet,
    /// Simonyan and Zisserman 2014, arXiv:1409.1556.
    Vgg,
    /// Howard et al. 2017, arXiv:1704.04861; batch normalisation folded into the convolutions.
    MobileNetV1,
    /// Sandler et al. 2018, arXiv:1801.04381.
    MobileNetV2,
    /// Iandola et al. 2016, arXiv:1602.07360.
    SqueezeNet,
}

architectures! {
    ResNet18, "resnet18", ResNet, 512, 224;
    ResNet34, "resnet34", ResNet, 512, 224;
    ResNet50, "resnet50", ResNet, 2048, 224;
    Vgg11, "vgg11", Vgg, 4096, 224;
    Vgg11Bn, "vgg11_bn", Vgg, 4096, 224;
    Vgg13, "vgg13", Vgg, 4096, 224;
    Vgg13Bn, "vgg13_bn", Vgg, 4096, 224;
    Vgg16, "vgg16", Vgg, 4096, 224;
    Vgg16Bn, "vgg16_bn", Vgg, 4096, 224;
    Vgg19, "vgg19", Vgg, 4096, 224;
    Vgg19Bn, "vgg19_bn", Vgg, 4096, 224;
    MobileNetV1x100, "mobilenet_v1_100", MobileNetV1, 1024, 224;
    MobileNetV1x075, "mobilenet_v1_075", MobileNetV1, 768, 192;
    MobileNetV1x050, "mobilenet_v1_050", MobileNetV1, 512, 160;
    MobileNetV1x025, "mobilenet_v1_025", MobileNetV1, 256, 128;
    MobileNetV2, "mobilenet_v2", MobileNetV2, 1280, 224;
    SqueezeNet11, "squeezenet1_1", SqueezeNet, 512, 224;
}

impl Architecture {
    /// The padding that published weights of this architecture were trained with. MobileNetV1's come from
    /// TensorFlow; all others from PyTorch.
    #[must_use]
    pub fn padding(self) -> Padding {
        match self.family() {
            Family::MobileNetV1 => Padding::Same,
            Family::ResNet | Family::Vgg | Family::MobileNetV2 | Family::SqueezeNet => Padding::Symmetric,
        }
    }

    /// Mean and standard deviation per channel of inputs scaled to [0, 1]: ImageNet's for PyTorch-born weights,
    /// 0.5 and 0.5 (that is [−1, 1]) for TensorFlow-born ones.
    #[must_use]
    pub fn normalisation(self) -> ([f64; 3], [f64; 3]) {
        match self.padding() {
            Padding::Same => ([0.5; 3], [0.5; 3]),
            Padding::Symmetric => ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        }
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
}
