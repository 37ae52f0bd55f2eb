//! QR codes: in a terminal, or as a PNG or SVG file.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use chappe_discovery::private_file;
use qrcode::{
    Color, EcLevel, QrCode,
    render::{svg, unicode},
};

/// Width of the quiet zone in modules, as the standard requires.
const QUIET: usize = 4;
/// Size of a module in pixels.
const PIXELS: usize = 8;

fn code(text: &str) -> Result<QrCode> {
    QrCode::with_error_correction_level(text, EcLevel::M).context("the QR code cannot be made")
}

/// Renders the code in half blocks, two modules per character. It has its own background, so it works on dark and light
/// terminals.
pub(crate) fn for_terminal(text: &str) -> Result<String> {
    let code = code(text)?;
    let mut image = code.render::<unicode::Dense1x2>();
    Ok(image.dark_color(unicode::Dense1x2::Light).light_color(unicode::Dense1x2::Dark).build())
}

/// Writes the code into a `.png` or `.svg` file that only its owner can read, because anyone who reads the code can pair.
pub(crate) fn write(text: &str, path: &Path) -> Result<()> {
    let code = code(text)?;
    let written = || format!("cannot write {}", path.display());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => {
            let image = code.render::<svg::Color<'_>>().min_dimensions(256, 256).build();
            private_file::write(path, image.as_bytes()).with_context(written)
        }
        Some("png") => {
            let mut file = Vec::new();
            let (side, pixels) = pixels(&code);
            let mut encoder = png::Encoder::new(&mut file, side, side);
            encoder.set_color(png::ColorType::Grayscale);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header().with_context(written)?;
            writer.write_image_data(&pixels).with_context(written)?;
            writer.finish().with_context(written)?;
            private_file::write(path, &file).with_context(written)
        }
        _ => bail!("{}: a file that ends in .png or .svg is expected", path.display()),
    }
}

/// The width of the image, and one byte per pixel.
fn pixels(code: &QrCode) -> (u32, Vec<u8>) {
    let (width, colors) = (code.width(), code.to_colors());
    let side = (width + 2 * QUIET) * PIXELS;
    let mut pixels = vec![0xff; side * side];
    for (index, _) in colors.iter().enumerate().filter(|(_, color)| **color == Color::Dark) {
        let (left, top) = ((index % width + QUIET) * PIXELS, (index / width + QUIET) * PIXELS);
        for row in top..top + PIXELS {
            pixels[row * side + left..row * side + left + PIXELS].fill(0);
        }
    }
    (u32::try_from(side).unwrap_or(u32::MAX), pixels)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_code_is_drawn_in_all_three_ways() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = "CHAPPE:ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        assert!(for_terminal(text).expect("a code").lines().count() > 15);
        for (name, start) in [("code.png", &b"\x89PNG"[..]), ("code.svg", b"<?xml")] {
            let path = dir.path().join(name);
            write(text, &path).expect("a file");
            assert!(std::fs::read(&path).expect("a file").starts_with(start), "{name}");
            let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert!(write(text, &dir.path().join("code.gif")).is_err());
    }
}
