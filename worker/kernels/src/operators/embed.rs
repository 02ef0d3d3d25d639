//! Token ids to states, and where the texts are.

use std::{ffi::c_void, ptr};

use super::{
    super::{
        cuda::Driver,
        device::Device,
        error::KernelError,
        interface::{Node, Run},
        kernels::ROWS,
        packing::{Packing, TILE},
        partition,
        stream::{gate_of, note_run},
    },
    Kernel, Launch,
};

/// The input that is wanted on the host: lengths decide how much memory comes out.
pub(super) const MASK: usize = 1;

/// Blocks that share a text, so that long ones take no longer than short ones.
const BLOCKS_OF_TEXT: usize = 4;

struct Embed {
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
    Ok(Box::new(Embed { launch: Launch::of(node, quantizing)?, epsilon: node.float(c"epsilon")? }))
}

impl Kernel for Embed {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError> {
        let [mut ids, mask, mut words, mut places, mut scale, mut shift] =
            [run.input(0)?, run.input(MASK)?, run.input(2)?, run.input(3)?, run.input(4)?, run.input(5)?];
        let [texts, width] = ids.dimensions("the ids")?;
        let [vocabulary, hidden] = words.dimensions("the table of words")?;
        let [longest, columns] = places.dimensions("the table of places")?;
        if mask.shape != ids.shape || width > longest || (width == 0 && texts > 0) {
            let reason = format!("ids {:?} and mask {:?} for {longest} places", ids.shape, mask.shape);
            return Err(KernelError::Graph(reason));
        }
        // The kernel reads the first word instead of one that there is none of.
        if vocabulary == 0 || columns != hidden || scale.shape != [hidden] || shift.shape != [hidden] {
            let reason = format!(
                "words {:?}, places {:?}, and a norm of {:?} and {:?}",
                words.shape, places.shape, scale.shape, shift.shape
            );
            return Err(KernelError::Graph(reason));
        }
        // SAFETY: the operator says that it is int64 and wanted on the host.
        let packing = Packing::of(unsafe { mask.on_host() }, width);
        let packing = packing.ok_or_else(|| KernelError::Graph("too many tokens".to_owned()))?;
        let tokens = packing.tokens();
        let mut states = run.output(0, [tokens, hidden])?;
        let mut starts = run.output(1, [texts + 1])?;
        let tiles = run.output(2, [packing.tiles.len() / TILE, TILE])?;
        let mut quantized =
            if self.launch.scale.is_some() { run.output(3, [tokens, hidden])? } else { ptr::null_mut() };
        let (driver, stream) = (Driver::get()?, run.stream()?);
        // Of a run that ONNX Runtime ended between two operators.
        partition::end(driver, stream)?;
        if tokens == 0 {
            // SAFETY: there is room for them: one for each text, and one more.
            return unsafe { driver.upload(starts, &packing.starts, stream) };
        }
        let kernels = self.launch.kernels(hidden)?;
        // SAFETY: there is room for them: the mask has a row for each text, and tiles were counted.
        unsafe {
            driver.upload(starts, &packing.starts, stream)?;
            driver.upload(tiles, &packing.tiles, stream)?;
        }
        // After what is copied, since a copy may wait for what is before it.
        match gate_of(stream) {
            Some(gate) => gate.close(driver, kernels.gate, stream)?,
            None => {
                note_run(tokens);
                Device::here()?.begin(driver, tokens, stream)?;
            }
        }
        let stream = run.lane()?.stream;
        let mut columns = i32::try_from(width).unwrap_or(i32::MAX);
        let mut rows = i64::try_from(vocabulary).unwrap_or(i64::MAX);
        let (mut epsilon, mut factor) = (self.epsilon, self.launch.scale.unwrap_or(1.0));
        let arguments: [*mut c_void; 12] = [
            (&raw mut ids.data).cast(),
            (&raw mut columns).cast(),
            (&raw mut starts).cast(),
            (&raw mut words.data).cast(),
            (&raw mut rows).cast(),
            (&raw mut places.data).cast(),
            (&raw mut scale.data).cast(),
            (&raw mut shift.data).cast(),
            (&raw mut epsilon).cast(),
            (&raw mut states).cast(),
            (&raw mut quantized).cast(),
            (&raw mut factor).cast(),
        ];
        let blocks = width.div_ceil(ROWS.1 as usize).min(BLOCKS_OF_TEXT);
        // SAFETY: these are the arguments of `embed`. Tables and norm have `hidden` columns, and no text is longer than the ids are wide or the places
        // reach: shapes were looked at above. Ids are bounded by the kernel.
        unsafe { driver.launch(kernels.embed, (texts, blocks), ROWS, stream, arguments) }
    }
}
