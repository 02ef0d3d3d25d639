//! What skipped a product is added, and the sum normalised.

use std::{ffi::c_void, ptr};

use super::{
    super::{
        cuda::Driver,
        error::KernelError,
        interface::{Node, Run},
        kernels::ROWS,
    },
    Kernel, Launch,
};

struct AddNorm {
    launch: Launch,
    epsilon: f32,
}

pub(super) fn plain(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    make(node, false)
}

pub(super) fn quantizing(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    make(node, true)
}

fn make(node: Node<'_>, quantizing: bool) -> Result<Box<dyn Kernel>, KernelError> {
    Ok(Box::new(AddNorm { launch: Launch::of(node, quantizing)?, epsilon: node.float(c"epsilon")? }))
}

impl Kernel for AddNorm {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError> {
        let [mut product, mut skipped, mut scale, mut shift] =
            [run.input(0)?, run.input(1)?, run.input(2)?, run.input(3)?];
        let [tokens, hidden] = product.dimensions("the product")?;
        if skipped.shape != product.shape || scale.shape != [hidden] || shift.shape != [hidden] {
            let reason = format!("a product of {:?} and a sum of {:?}", product.shape, skipped.shape);
            return Err(KernelError::Graph(reason));
        }
        let mut states = run.output(0, [tokens, hidden])?;
        let mut quantized =
            if self.launch.scale.is_some() { run.output(1, [tokens, hidden])? } else { ptr::null_mut() };
        if tokens == 0 {
            return Ok(());
        }
        let kernels = self.launch.kernels(hidden)?;
        let mut rows = i32::try_from(tokens).unwrap_or(i32::MAX);
        let (mut epsilon, mut factor) = (self.epsilon, self.launch.scale.unwrap_or(1.0));
        let arguments: [*mut c_void; 9] = [
            (&raw mut product.data).cast(),
            (&raw mut skipped.data).cast(),
            (&raw mut scale.data).cast(),
            (&raw mut shift.data).cast(),
            (&raw mut epsilon).cast(),
            (&raw mut rows).cast(),
            (&raw mut states).cast(),
            (&raw mut quantized).cast(),
            (&raw mut factor).cast(),
        ];
        let blocks = tokens.div_ceil(ROWS.1 as usize);
        // SAFETY: these are the arguments of `add_norm`, and shapes were looked at above.
        unsafe { Driver::get()?.launch(kernels.add_norm, (blocks, 1), ROWS, run.lane()?.stream, arguments) }
    }
}
