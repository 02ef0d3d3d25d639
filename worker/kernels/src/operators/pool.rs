//! States of tokens to the vector of each text.

use std::ffi::c_void;

use super::{
    super::{
        cuda::Driver,
        error::KernelError,
        interface::{Node, Run},
        partition, stream,
    },
    Kernel, Launch,
};

struct Pool {
    launch: Launch,
    mean: bool,
    normalize: bool,
}

pub(super) fn make(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    let (mean, normalize) = (node.number(c"mean")? != 0, node.number(c"normalize")? != 0);
    Ok(Box::new(Pool { launch: Launch::of(node, false)?, mean, normalize }))
}

impl Kernel for Pool {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError> {
        let [mut states, mut starts] = [run.input(0)?, run.input(1)?];
        let [_, hidden] = states.dimensions("the states")?;
        let [texts] = starts.dimensions("where texts begin")?;
        let texts = texts.saturating_sub(1);
        let mut vectors = run.output(0, [texts, hidden])?;
        if texts == 0 {
            return Ok(());
        }
        let (driver, stream) = (Driver::get()?, run.stream()?);
        let kernels = self.launch.kernels(hidden)?;
        let (mut mean, mut normalize) = (i32::from(self.mean), i32::from(self.normalize));
        let arguments: [*mut c_void; 5] = [
            (&raw mut states.data).cast(),
            (&raw mut starts.data).cast(),
            (&raw mut mean).cast(),
            (&raw mut normalize).cast(),
            (&raw mut vectors).cast(),
        ];
        let block = (u32::try_from(hidden / 2).unwrap_or(u32::MAX), 1);
        // SAFETY: these are the arguments of `pool`. Starts lie within the tokens: they come from the graph's only `Embed`, whose tokens the states are, as
        // whoever registers the operators has seen to, see `register`.
        let launched = unsafe { driver.launch(kernels.pool, (texts, 1), block, run.lane()?.stream, arguments) };
        match stream::gate_of(stream) {
            Some(gate) => gate.open(),
            None => partition::end(driver, stream)?,
        }
        launched
    }
}
