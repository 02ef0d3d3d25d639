//! Attention of texts that lie one after the other.

use std::{f32::consts::LOG2_E, ffi::c_void, ptr};

use super::{
    super::{
        Shape,
        cuda::Driver,
        error::KernelError,
        interface::{Node, Run},
        kernels::ATTENTION,
        packing::TILE,
    },
    Kernel, Launch,
};

struct Attention(Launch);

pub(super) fn plain(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    Ok(Box::new(Attention(Launch::of(node, false)?)))
}

pub(super) fn quantizing(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    Ok(Box::new(Attention(Launch::of(node, true)?)))
}

impl Kernel for Attention {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError> {
        let [mut projected, mut tiles] = [run.input(0)?, run.input(1)?];
        let ([tokens, columns], [count, TILE]) =
            (projected.dimensions("queries, keys and values")?, tiles.dimensions("tiles")?)
        else {
            return Err(KernelError::Graph(format!("tiles have the shape {:?}", tiles.shape)));
        };
        if !columns.is_multiple_of(3) {
            return Err(KernelError::Graph(format!(
                "queries, keys and values have {columns} columns, and have to be alike"
            )));
        }
        let (hidden, heads) = (columns / 3, self.0.heads);
        let states = run.output(0, [tokens, hidden])?;
        if count == 0 {
            return Ok(());
        }
        let kernels = self.0.kernels(hidden)?;
        // The kernel writes in one of both types.
        let (mut plain, mut quantized) =
            if self.0.scale.is_some() { (ptr::null_mut(), states) } else { (states, ptr::null_mut()) };
        // For powers of 2 instead of e.
        let size = Shape { hidden, heads }.head();
        let mut factor = LOG2_E / (size as f32).sqrt();
        let mut scale = self.0.scale.unwrap_or(1.0);
        let arguments: [*mut c_void; 6] = [
            (&raw mut projected.data).cast(),
            (&raw mut tiles.data).cast(),
            (&raw mut factor).cast(),
            (&raw mut plain).cast(),
            (&raw mut quantized).cast(),
            (&raw mut scale).cast(),
        ];
        // SAFETY: these are the arguments of `attention`. Tiles lie within the tokens: they come from the graph's only `Embed`, whose tokens the states are,
        // as whoever registers the operators has seen to, see `register`.
        unsafe {
            Driver::get()?.launch(kernels.attention, (count * heads, 1), ATTENTION, run.lane()?.stream, arguments)
        }
    }
}
