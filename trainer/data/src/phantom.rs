//! Generated data for where there is none: CT-like slices of a chest with and without a lesion, and a source domain of
//! simple textures to pre-train a small backbone on. Everything is a function of the seed. It is a toy for demos and
//! tests and claims nothing about real patients.
//!
//! A lesion is a soft blob inside a lung. Brightness, contrast, noise, body shape and vessels vary from slice to slice
//! by more than a lesion changes the mean, and slices without a lesion have small bright vessels too, so that neither the
//! mean nor the maximum of the pixels gives the label away: its size and softness do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use graft_trainer_core::rng::{Purpose, Stream};
use image::GrayImage;

/// Side of a generated image in pixels.
pub const SIDE: u32 = 128;

/// Classes of the phantom, sorted.
pub const PHANTOM_CLASSES: [&str; 2] = ["lesion", "normal"];

/// Classes of the source domain, sorted.
pub const SOURCE_CLASSES: [&str; 5] = ["blobs", "checks", "dots", "rings", "stripes"];

/// Slices of each phantom patient.
const SLICES: usize = 3;

/// Writes `patients` phantom patients of three slices each below `folder`: every second one has a lesion, every fifth is in
/// the test split and every fifth in the validation split. Returns the manifest, with the columns `image`, `label`,
/// `split` and `patient`. The same seed writes the same bytes.
///
/// # Errors
/// When a file cannot be written.
pub fn write_phantom(folder: &Path, seed: u64, patients: usize) -> io::Result<PathBuf> {
    let mut rows = "image,label,split,patient\n".to_owned();
    fs::create_dir_all(folder.join("images"))?;
    for patient in 0..patients {
        let label = PHANTOM_CLASSES[patient % 2];
        let split = split_of(patient / 2);
        for slice in 0..SLICES {
            let name = format!("images/patient-{patient:03}-slice-{slice}.png");
            let mut random = Stream::new(seed, Purpose::Phantom, (patient * SLICES + slice) as u32);
            save(&chest(&mut random, label == "lesion"), &folder.join(&name))?;
            rows.push_str(&format!("{name},{label},{split},phantom-{patient:03}\n"));
        }
    }
    write_manifest(folder, &rows)
}

/// Writes `images` textures of each of five classes below `folder` and returns the manifest, with the columns `image`,
/// `label` and `split`. The same seed writes the same bytes, and no image equals one of [`write_phantom`].
///
/// # Errors
/// When a file cannot be written.
pub fn write_source_domain(folder: &Path, seed: u64, images: usize) -> io::Result<PathBuf> {
    let mut rows = "image,label,split\n".to_owned();
    fs::create_dir_all(folder.join("images"))?;
    for (class, label) in SOURCE_CLASSES.iter().enumerate() {
        for image in 0..images {
            let name = format!("images/{label}-{image:04}.png");
            let stream = 0x8000_0000 | (class * images + image) as u32;
            save(&texture(&mut Stream::new(seed, Purpose::Phantom, stream), label), &folder.join(&name))?;
            rows.push_str(&format!("{name},{label},{}\n", split_of(image)));
        }
    }
    write_manifest(folder, &rows)
}

fn split_of(index: usize) -> &'static str {
    match index % 5 {
        3 => "val",
        4 => "test",
        _ => "train",
    }
}

fn write_manifest(folder: &Path, rows: &str) -> io::Result<PathBuf> {
    let path = folder.join("manifest.csv");
    fs::write(&path, rows)?;
    Ok(path)
}

fn save(image: &GrayImage, path: &Path) -> io::Result<()> {
    image.save(path).map_err(io::Error::other)
}

/// Grey values of an image while it is drawn; 0 is black, 1 is white.
struct Canvas(Vec<f64>);

impl Canvas {
    fn new(value: f64) -> Self {
        Self(vec![value; (SIDE * SIDE) as usize])
    }

    /// Changes each pixel at (x, y).
    fn each(&mut self, change: impl Fn(f64, f64, &mut f64)) {
        for (i, value) in self.0.iter_mut().enumerate() {
            let (x, y) = (i % SIDE as usize, i / SIDE as usize);
            change(x as f64, y as f64, value);
        }
    }

    /// A filled ellipse with a soft edge.
    fn ellipse(&mut self, shape: Ellipse, value: f64) {
        self.each(|x, y, pixel| *pixel += (value - *pixel) * shape.inside(x, y));
    }

    /// Adds a Gaussian blob.
    fn blob(&mut self, (cx, cy): (f64, f64), sigma: f64, height: f64) {
        self.each(|x, y, pixel| *pixel += height * (-((x - cx).powi(2) + (y - cy).powi(2)) / (2.0 * sigma * sigma)).exp());
    }

    /// White noise, contrast and brightness, then 8 bits.
    fn develop(mut self, random: &mut Stream, noise: f64, contrast: f64, brightness: f64) -> GrayImage {
        for value in &mut self.0 {
            *value = (*value - 0.5) * contrast + 0.5 + brightness + noise * random.normal();
        }
        let bytes = self.0.iter().map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
        GrayImage::from_raw(SIDE, SIDE, bytes).unwrap_or_else(|| GrayImage::new(SIDE, SIDE))
    }
}

#[derive(Clone, Copy)]
struct Ellipse {
    x: f64,
    y: f64,
    a: f64,
    b: f64,
}

impl Ellipse {
    /// 1 inside, 0 outside, with an edge about two pixels wide.
    fn inside(&self, x: f64, y: f64) -> f64 {
        let radius = (((x - self.x) / self.a).powi(2) + ((y - self.y) / self.b).powi(2)).sqrt();
        (0.5 - (radius - 1.0) * self.a.min(self.b) / 2.0).clamp(0.0, 1.0)
    }

    /// A random point of the inner part, `share` of the way to the edge at most.
    fn point(&self, random: &mut Stream, share: f64) -> (f64, f64) {
        let (angle, radius) = (random.between(0.0, std::f64::consts::TAU), share * random.uniform().sqrt());
        (self.x + self.a * radius * angle.cos(), self.y + self.b * radius * angle.sin())
    }
}

/// One slice: body, two lungs, spine, vessels, and perhaps one or two lesions.
fn chest(random: &mut Stream, lesion: bool) -> GrayImage {
    let middle = f64::from(SIDE) / 2.0;
    let (cx, cy) = (middle + random.between(-4.0, 4.0), middle + random.between(-4.0, 4.0));
    let body = Ellipse { x: cx, y: cy, a: random.between(52.0, 59.0), b: random.between(40.0, 48.0) };
    let lungs = [-1.0, 1.0].map(|side| Ellipse {
        x: cx + side * random.between(23.0, 26.0),
        y: cy + random.between(-3.0, 1.0),
        a: random.between(16.0, 20.0),
        b: random.between(25.0, 31.0),
    });
    let mut canvas = Canvas::new(0.03);
    canvas.ellipse(body, random.between(0.5, 0.62));
    let air = random.between(0.12, 0.24);
    for lung in lungs {
        canvas.ellipse(lung, air);
    }
    canvas.ellipse(Ellipse { x: cx, y: cy + body.b * 0.72, a: 8.0, b: 7.0 }, random.between(0.8, 0.95));
    canvas.ellipse(Ellipse { x: cx - 4.0, y: cy - 4.0, a: random.between(9.0, 12.0), b: random.between(11.0, 15.0) }, random.between(0.55, 0.68));
    for _ in 0..10 + random.below(25) {
        let lung = lungs[random.below(2)];
        let (at, sigma, height) = (lung.point(random, 0.9), random.between(0.7, 1.4), random.between(0.2, 0.55));
        canvas.blob(at, sigma, height);
    }
    if lesion {
        for _ in 0..1 + random.below(2) {
            let lung = lungs[random.below(2)];
            let (at, sigma, height) = (lung.point(random, 0.65), random.between(3.5, 6.0), random.between(0.22, 0.4));
            canvas.blob(at, sigma, height);
        }
    }
    let (noise, contrast, brightness) = (random.between(0.015, 0.04), random.between(0.8, 1.15), random.between(-0.08, 0.08));
    canvas.develop(random, noise, contrast, brightness)
}

/// One image of the source domain.
fn texture(random: &mut Stream, class: &str) -> GrayImage {
    let mut canvas = Canvas::new(random.between(0.2, 0.6));
    let side = f64::from(SIDE);
    let sign = if random.uniform() < 0.5 { -1.0 } else { 1.0 };
    let (angle, period, phase) = (random.between(0.0, std::f64::consts::PI), random.between(7.0, 20.0), random.between(0.0, 20.0));
    let wave = |t: f64| (std::f64::consts::TAU * (t + phase) / period).sin();
    let (along, across) = (move |x: f64, y: f64| x * angle.cos() + y * angle.sin(), move |x: f64, y: f64| y * angle.cos() - x * angle.sin());
    let height = sign * random.between(0.12, 0.35);
    match class {
        "stripes" => canvas.each(|x, y, pixel| *pixel += height * wave(along(x, y))),
        "checks" => canvas.each(|x, y, pixel| *pixel += height * (wave(along(x, y)) * wave(across(x, y))).signum() * 0.7),
        "rings" => {
            let (cx, cy) = (random.between(0.3, 0.7) * side, random.between(0.3, 0.7) * side);
            canvas.each(|x, y, pixel| *pixel += height * wave((x - cx).hypot(y - cy)));
        }
        _ => {
            let (count, low, high) = if class == "blobs" { (3 + random.below(6), 4.0, 9.0) } else { (30 + random.below(50), 0.8, 1.6) };
            for _ in 0..count {
                let at = (random.between(0.05, 0.95) * side, random.between(0.05, 0.95) * side);
                let (sigma, height) = (random.between(low, high), sign * random.between(0.2, 0.5));
                canvas.blob(at, sigma, height);
            }
        }
    }
    let (noise, contrast, brightness) = (random.between(0.01, 0.06), random.between(0.7, 1.2), random.between(-0.1, 0.1));
    canvas.develop(random, noise, contrast, brightness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use graft_trainer_core::metrics::auroc;

    /// How much the brightest soft spot stands out inside the lungs: in the middle of where each lung is, a minimum over
    /// 7 × 7 pixels wipes out vessels and leaves lesions; the largest value over the median is the score.
    fn soft_spot(image: &GrayImage) -> f64 {
        let eroded = |x: u32, y: u32| (x - 3..=x + 3).flat_map(|x| (y - 3..=y + 3).map(move |y| image.get_pixel(x, y)[0])).min().unwrap();
        let score = |left: u32| {
            let mut values: Vec<u8> = (left..left + 20).flat_map(|x| (46..82).map(move |y| (x, y))).map(|(x, y)| eroded(x, y)).collect();
            values.sort_unstable();
            f64::from(values[values.len() - 1]) - f64::from(values[values.len() / 2])
        };
        score(30).max(score(78))
    }

    #[test]
    fn a_lesion_is_found_by_its_shape_and_not_by_brightness() {
        let slices: Vec<(GrayImage, bool)> = (0..240).map(|i| (chest(&mut Stream::new(5, Purpose::Phantom, i), i % 2 == 0), i % 2 == 0)).collect();
        let area = |score: &dyn Fn(&GrayImage) -> f64| {
            auroc(&slices.iter().map(|(image, lesion)| (score(image), *lesion)).collect::<Vec<_>>()).value.unwrap()
        };
        let mean = area(&|image| image.as_raw().iter().map(|&b| f64::from(b)).sum());
        let maximum = area(&|image| f64::from(*image.as_raw().iter().max().unwrap()));
        let shape = area(&soft_spot);
        println!("AUROC by mean {mean:.3}, by maximum {maximum:.3}, by soft spot {shape:.3}");
        assert!((0.35..0.65).contains(&mean), "the mean gives the label away: {mean}");
        assert!((0.35..0.65).contains(&maximum), "the maximum gives the label away: {maximum}");
        assert!(shape > 0.8, "a lesion cannot be told from a vessel: {shape}");
    }
}
