//! Features of every COVID-CT test image beside PyTorch's on the same weights: Graft's own decoding, resizing and network
//! against Pillow's and torchvision's. The error is relative to the largest feature of the image.

use anyhow::{Context, Result};

use super::{conditions, local};
use crate::report::{Aim, Row, print};
use crate::scenario;

pub(super) fn run() -> Result<()> {
    let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
    let work = tempfile::tempdir()?;
    let mut rows = Vec::new();
    // These weights of MobileNetV2 come from TensorFlow, which the architecture's own preprocessing does not assume.
    let from_tensorflow = serde_json::json!({"fit": "stretch", "mean": ["0.5", "0.5", "0.5"], "std": ["0.5", "0.5", "0.5"], "padding": "same"});
    for (architecture, weights, preprocessing) in [
        ("mobilenet_v2", "mobilenet_v2_imagenet.safetensors", from_tensorflow),
        ("squeezenet1_1", "squeezenet1_1_imagenet.safetensors", serde_json::json!({"fit": "stretch"})),
        ("mobilenet_v1_100", "mobilenet_v1_1.0_224_quant_embedding_extractor.folded.safetensors", serde_json::json!({"fit": "stretch"})),
    ] {
        let folder = work.path().join(architecture);
        let output = local::train("lung-ct", &data, &folder, |job| {
            job["spec"]["backbone"] = serde_json::json!({"architecture": architecture, "weights": {"uri": format!("file:///data/weights/{weights}")},
                "preprocessing": preprocessing});
            job["spec"]["head"] = serde_json::json!({"epochs": 1});
            if let Some(spec) = job["spec"].as_object_mut() {
                spec.remove("fineTune");
            }
        })?;
        let (features, data) = (output.join(".graft/features"), data.to_string_lossy());
        let result = local::reference("features.py", &[architecture, &data, weights, &features.to_string_lossy()])?;
        let error = result["largest_relative_error"].as_f64().context("largest_relative_error")?;
        let images = result["images"].as_u64().unwrap_or_default();
        rows.push(Row::new(format!("{architecture}: largest error over {images} test images"), error, "relative", Aim::AtMost(1e-4)));
    }
    print("parity", &conditions(), &rows);
    Ok(())
}
