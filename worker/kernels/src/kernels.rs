//! The kernels for one shape of model on one device.

use std::ffi::CStr;

use super::{
    Shape,
    cuda::{Driver, Function, Nvrtc},
    error::KernelError,
};

/// The source, with the zero that the compiler wants at its end.
const SOURCE: &str = concat!(include_str!("kernels.cu"), "\0");

/// Threads of a warp, and warps of a block that works by rows; as `kernels.cu` has them.
pub(crate) const ROWS: (u32, u32) = (32, 8);
/// Threads of a block that computes attention.
pub(crate) const ATTENTION: (u32, u32) = (128, 1);

/// All of them.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) embed: Function,
    pub(crate) add_norm: Function,
    pub(crate) attention: Function,
    pub(crate) pool: Function,
    pub(crate) gate: Function,
}

/// What the compiler is told.
fn options(shape: Shape, (major, minor): (i32, i32), quantized: bool) -> Vec<String> {
    vec![
        format!("--gpu-architecture=sm_{major}{minor}"),
        "--std=c++17".to_owned(),
        format!("-DHIDDEN={}", shape.hidden),
        format!("-DHEAD={}", shape.head()),
        format!("-DFP8={}", u8::from(quantized)),
    ]
}

impl Kernels {
    /// Compiles them for a device that this thread uses, which takes about a second.
    pub(crate) fn compile(shape: Shape, capability: (i32, i32), quantized: bool) -> Result<Self, KernelError> {
        let source = CStr::from_bytes_with_nul(SOURCE.as_bytes()).map_err(|e| KernelError::Compile(e.to_string()))?;
        let image = Nvrtc::get()?.compile(source, &options(shape, capability, quantized))?;
        let names = [c"embed", c"add_norm", c"attention", c"pool", c"gate"];
        let [embed, add_norm, attention, pool, gate] = Driver::get()?.load(&image, names)?;
        Ok(Self { embed, add_norm, attention, pool, gate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernels_count_by_is_what_is_launched() {
        let defined = |name: &str| {
            let line = SOURCE.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
            line.unwrap().parse::<u32>().unwrap()
        };
        assert_eq!((defined("WARP"), defined("ROWS_OF_BLOCK")), ROWS);
        assert_eq!((defined("WARP") * defined("WARPS"), 1), ATTENTION);
        assert_eq!(defined("QUERIES") as usize, crate::packing::QUERIES);
    }

    /// Without a device: the compiler alone, where it is found (`pip install nvidia-cuda-nvrtc`, and `LD_LIBRARY_PATH`).
    #[test]
    fn the_source_compiles_for_devices_that_can_run_it() {
        let Ok(compiler) = Nvrtc::get() else { return };
        let source = CStr::from_bytes_with_nul(SOURCE.as_bytes()).unwrap();
        for (capability, quantized, hidden, heads) in [((8, 0), false, 384, 12), ((9, 0), true, 1024, 16)] {
            let image = compiler.compile(source, &options(Shape { hidden, heads }, capability, quantized)).unwrap();
            assert!(image.len() > 1000, "{capability:?}");
        }
        let broken = compiler.compile(c"__global__ void f() { nothing(); }", &[]).unwrap_err().to_string();
        assert!(broken.contains("nothing"), "{broken}");
    }
}
