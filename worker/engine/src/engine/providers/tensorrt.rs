//! TensorRT: what its provider is told, and which engines are built for the planner's shapes.
//!
//! An engine is built for a range of shapes, a profile, and is as fast as its kernels are for the shape in the middle. ONNX Runtime's
//! provider can build several profiles into one engine, but runs only the first (up to 1.32 at least), so each range of widths
//! has a session with an engine of its own.

use std::path::Path;

use libloading::Library;

use super::options::Options;
use crate::{
    settings::{EngineConfig, TensorrtConfig},
    shape::Padding,
};

/// The library of TensorRT 10, which is what ONNX Runtime's provider opens.
const FILE: &str = "libnvinfer.so.10";

/// Shapes that an engine takes: rows and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// The smallest.
    pub min: (usize, usize),
    /// The one that it is made for.
    pub opt: (usize, usize),
    /// The largest of each.
    pub max: (usize, usize),
}

/// One profile for each range of widths, rising, the last up to `longest`. Together they take every shape that a batch of at
/// most `max_texts` texts and `max_tokens` tokens has after padding.
#[must_use]
pub fn profiles(config: &EngineConfig, padding: &Padding, longest: usize) -> Vec<Profile> {
    let (most, tokens) = (config.device.max_texts, config.device.max_tokens);
    let mut bounds: Vec<usize> = config.tensorrt.widths.iter().copied().filter(|width| *width < longest).collect();
    bounds.push(longest);
    let mut profiles = Vec::with_capacity(bounds.len());
    let mut narrowest = 1;
    for width in bounds {
        let (_, width) = padding.of(1, width);
        if width < narrowest {
            continue;
        }
        // The most rows are those of the narrowest batch; one text alone may always run.
        let fit = |width: usize| (tokens / width).clamp(1, most);
        let (rows, _) = padding.of(fit(narrowest), width);
        let best = padding.of(fit(width), width);
        profiles.push(Profile { min: (1, narrowest), opt: (best.0.min(rows), width), max: (rows, width) });
        narrowest = width + 1;
    }
    profiles
}

/// A shape as TensorRT's options have it: the same for both inputs.
fn shapes((rows, width): (usize, usize)) -> String {
    format!("input_ids:{rows}x{width},attention_mask:{rows}x{width}")
}

/// What the provider is told of one engine. `cache`: where built engines and timings are kept.
#[must_use]
pub fn options(config: &TensorrtConfig, device: u32, profile: Profile, cache: Option<&Path>) -> Options {
    let mut options = vec![
        ("device_id", device.to_string()),
        ("trt_profile_min_shapes", shapes(profile.min)),
        ("trt_profile_opt_shapes", shapes(profile.opt)),
        ("trt_profile_max_shapes", shapes(profile.max)),
    ];
    if let Some(cache) = cache {
        let cache = cache.display().to_string();
        options.extend([
            ("trt_engine_cache_enable", "1".to_owned()),
            ("trt_engine_cache_path", cache.clone()),
            ("trt_timing_cache_enable", "1".to_owned()),
            ("trt_timing_cache_path", cache),
        ]);
    }
    options.extend(config.workspace.map(|size| ("trt_max_workspace_size", size.as_u64().to_string())));
    options.extend(config.auxiliary_streams.map(|streams| ("trt_auxiliary_streams", streams.to_string())));
    options.extend(config.optimization_level.map(|level| ("trt_builder_optimization_level", level.to_string())));
    options
}

/// TensorRT's version, such as `10.16.1`.
///
/// # Errors
/// If its library cannot be loaded.
pub fn version() -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers; it is the one that ONNX Runtime's provider loads.
    let library = unsafe { Library::new(FILE) }.map_err(|e| format!("TensorRT cannot be loaded: {e}"))?;
    // SAFETY: this is the function's signature in `NvInferRuntime.h`.
    let version = unsafe {
        let get = library.get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0");
        get.map_err(|e| format!("{FILE}: {e}"))?()
    };
    Ok(readable(version))
}

/// 10,000 for a major, 100 for a minor version, since TensorRT 10.
fn readable(version: i32) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// What tells apart engines that are built from one graph: an engine runs only on the architecture, with the TensorRT, and for
/// the shapes that it was built for.
#[must_use]
pub fn fingerprint(config: &EngineConfig, profile: Profile) -> String {
    let TensorrtConfig { workspace, auxiliary_streams, optimization_level, .. } = &config.tensorrt;
    let Profile { min, opt, max } = profile;
    let mut name = format!("{}x{}-{}x{}-{}x{}", min.0, min.1, opt.0, opt.1, max.0, max.1);
    for (key, value) in [
        ("w", workspace.map(|size| size.as_u64().to_string())),
        ("a", auxiliary_streams.map(|streams| streams.to_string())),
        ("o", optimization_level.map(|level| level.to_string())),
    ] {
        if let Some(value) = value {
            name += &format!("-{key}{value}");
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn padding(config: &EngineConfig, longest: usize) -> Padding {
        Padding::new(config.device.widths.clone(), config.device.rows.clone(), longest)
    }

    #[test]
    fn profiles_follow_the_widths() {
        let config = EngineConfig::default();
        let profiles = profiles(&config, &padding(&config, 512), 512);
        let expected = [
            Profile { min: (1, 1), opt: (1024, 64), max: (1024, 64) },
            Profile { min: (1, 65), opt: (256, 256), max: (1024, 256) },
            Profile { min: (1, 257), opt: (128, 512), max: (256, 512) },
        ];
        assert_eq!(profiles, expected);
    }

    #[test]
    fn options_are_what_was_configured() {
        let mut config = TensorrtConfig::default();
        let profile = Profile { min: (1, 1), opt: (64, 32), max: (128, 64) };
        assert_eq!(
            options(&config, 1, profile, None),
            [
                ("device_id", "1"),
                ("trt_profile_min_shapes", "input_ids:1x1,attention_mask:1x1"),
                ("trt_profile_opt_shapes", "input_ids:64x32,attention_mask:64x32"),
                ("trt_profile_max_shapes", "input_ids:128x64,attention_mask:128x64"),
            ]
            .map(|(key, value)| (key, value.to_owned()))
        );
        config.workspace = Some(bytesize::ByteSize::gib(1));
        config.auxiliary_streams = Some(0);
        config.optimization_level = Some(4);
        let all = options(&config, 0, profile, Some(Path::new("/c")));
        for (key, value) in [
            ("trt_engine_cache_enable", "1"),
            ("trt_engine_cache_path", "/c"),
            ("trt_timing_cache_enable", "1"),
            ("trt_timing_cache_path", "/c"),
            ("trt_max_workspace_size", "1073741824"),
            ("trt_auxiliary_streams", "0"),
            ("trt_builder_optimization_level", "4"),
        ] {
            assert!(all.contains(&(key, value.to_owned())), "{key}");
        }
    }

    #[test]
    fn fingerprints_tell_apart_what_would_be_built_differently() {
        let mut config = EngineConfig::default();
        let profile = Profile { min: (1, 1), opt: (64, 32), max: (128, 64) };
        let plain = fingerprint(&config, profile);
        assert_eq!(plain, "1x1-64x32-128x64");
        config.tensorrt.optimization_level = Some(4);
        assert_ne!(fingerprint(&config, profile), plain);
        assert_eq!(readable(101_601), "10.16.1");
    }

    proptest! {
        #[test]
        fn every_batch_fits_a_profile(
            widths in prop::collection::btree_set(1usize..600, 0..5),
            rows in 1usize..2000, width in 1usize..512, max_texts in 1usize..1500, max_tokens in 64usize..70_000,
            longest in 1usize..512,
        ) {
            let mut config = EngineConfig::default();
            config.device.max_texts = max_texts;
            config.device.max_tokens = max_tokens;
            config.tensorrt.widths = widths.into_iter().collect();
            let padding = padding(&config, longest);
            let width = width.min(longest);
            // What the planner may choose: within the budget after padding, or one text.
            let mut rows = rows.min(max_texts);
            while rows > 1 && { let (r, w) = padding.of(rows, width); r * w > max_tokens } {
                rows -= 1;
            }
            let (padded_rows, padded_width) = padding.of(rows, width);
            let profiles = profiles(&config, &padding, longest);
            let fits = |p: &&Profile| p.min.1 <= padded_width && padded_width <= p.max.1;
            let profile = profiles.iter().find(fits).expect("a profile of this width");
            prop_assert!(padded_rows <= profile.max.0, "{padded_rows} x {padded_width}: {profile:?}");
            prop_assert!(profile.min.0 <= profile.opt.0 && profile.opt.0 <= profile.max.0);
            prop_assert!(profile.min.1 <= profile.opt.1 && profile.opt.1 <= profile.max.1);
        }
    }
}
