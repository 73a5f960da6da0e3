//! SVG to PNG, for papers and slides.
//!
//! Owner: `chart`. Must not: draw labels as nothing; a machine without fonts is told so.

use std::path::Path;
use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use crate::error::{BenchError, Result, io_err};

/// Pixels for each unit of the picture: sharp in print at the width of a column.
const PIXELS_PER_UNIT: f32 = 2.0;

/// Draws the picture into a file.
///
/// # Errors
/// When the machine has no font, or the file cannot be written.
pub(crate) fn write_png(svg: &str, path: &Path) -> Result<()> {
    let wrong = |what: &str| BenchError::Usage(format!("{}: {what}", path.display()));
    let mut options = usvg::Options::default();
    let fonts = Arc::make_mut(&mut options.fontdb);
    fonts.load_system_fonts();
    let family = fonts.faces().next().and_then(|face| Some(face.families.first()?.0.clone()));
    let Some(family) = family else {
        return Err(wrong("this machine has no font to draw labels with (Debian: fonts-dejavu-core)"));
    };
    let sans = fonts.faces().find_map(|face| {
        let name = &face.families.first()?.0;
        name.contains("Sans").then(|| name.clone())
    });
    fonts.set_sans_serif_family(sans.unwrap_or(family));
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| wrong(&error.to_string()))?;
    let size =
        tree.size().to_int_size().scale_by(PIXELS_PER_UNIT).ok_or_else(|| wrong("an empty picture"))?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).ok_or_else(|| wrong("an empty picture"))?;
    let scale = tiny_skia::Transform::from_scale(PIXELS_PER_UNIT, PIXELS_PER_UNIT);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    let bytes = pixels.encode_png().map_err(|error| wrong(&error.to_string()))?;
    std::fs::write(path, bytes).map_err(io_err(format!("write {}", path.display())))
}
