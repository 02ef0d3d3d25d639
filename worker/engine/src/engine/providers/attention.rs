//! Which of its kernels for attention ONNX Runtime takes on the CUDA provider.

use super::driver::{self, Capability};
use crate::settings::Devices;

/// All of ONNX Runtime's kernels for attention but cuDNN's: flash (1), memory-efficient (2), TensorRT's fused (4) and flash (32), and the
/// plain products (16), as in its `AttentionBackend`. Naming any keeps it from preferring cuDNN's by itself.
pub(super) const KERNELS: u8 = 1 | 2 | 4 | 16 | 32;

/// From how many tokens of its longest text on a packed batch is given to FlashAttention. No option of the provider says it.
const FLASH_FROM: &str = "ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV";

/// The last architecture for which ONNX Runtime has TensorRT's fused kernels, which it takes below that.
const LAST_FUSED: Capability = (8, 9);

/// What ONNX Runtime takes if no kernels are named: these kernels go up to 512 tokens.
const BESIDE_FUSED: u32 = 513;

/// Memory-efficient attention, in blocks of 64 tokens, is the faster one for a single block; for texts of 80 to 256 tokens, runs take 1 to
/// 16 % less with FlashAttention (`loadtest/results/h100-cuda`).
const BESIDE_MEMORY_EFFICIENT: u32 = 65;

/// Tells ONNX Runtime from where on FlashAttention is worth it on these devices, unless the environment says so already.
///
/// # Safety
/// There must be no other thread: the environment of the process is changed.
pub unsafe fn choose(devices: &Devices) {
    if std::env::var_os(FLASH_FROM).is_some() {
        return;
    }
    // Without a driver, nothing will run on a device.
    let Ok(capability) = driver::chosen(devices).and_then(|chosen| {
        let first = chosen.first().ok_or("no device is configured")?;
        driver::capability(*first)
    }) else {
        return;
    };
    let from = flash_from(capability);
    tracing::info!(tokens = from, "FlashAttention for packed batches with texts of so many tokens and more");
    // SAFETY: as the caller has promised.
    unsafe { std::env::set_var(FLASH_FROM, from.to_string()) };
}

fn flash_from(capability: Capability) -> u32 {
    if capability > LAST_FUSED { BESIDE_MEMORY_EFFICIENT } else { BESIDE_FUSED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flash_attention_depends_on_what_else_there_is() {
        for (capability, from) in
            [((7, 5), 513), ((8, 0), 513), ((8, 9), 513), ((9, 0), 65), ((10, 0), 65), ((12, 0), 65)]
        {
            assert_eq!(flash_from(capability), from, "{capability:?}");
        }
    }
}
