//! A product with a weight matrix, its bias, and GELU behind it.

use std::ptr;

use super::{
    super::{
        cublas::{Linear, Types},
        device::Device,
        error::KernelError,
        interface::{Node, Run},
    },
    Kernel,
};

struct Layer {
    types: Types,
    gelu: bool,
    factor: f32,
}

pub(super) fn plain(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    make(node, Types::Float16)
}

pub(super) fn from_quantized(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    make(node, Types::FromQuantized)
}

pub(super) fn quantized(node: Node<'_>) -> Result<Box<dyn Kernel>, KernelError> {
    make(node, Types::Quantized)
}

fn make(node: Node<'_>, types: Types) -> Result<Box<dyn Kernel>, KernelError> {
    let factor = if types == Types::Float16 { 1.0 } else { node.float(c"factor")? };
    Ok(Box::new(Layer { types, gelu: node.number(c"gelu")? != 0, factor }))
}

impl Kernel for Layer {
    fn run(&self, run: Run<'_>) -> Result<(), KernelError> {
        let [states, weight, bias] = [run.input(0)?, run.input(1)?, run.input(2)?];
        let [tokens, inputs] = states.dimensions("what is multiplied")?;
        let [outputs, columns] = weight.dimensions("the weight")?;
        if columns != inputs || bias.shape != [outputs] {
            let reason = format!("{:?} by {:?}, and a bias of {:?}", states.shape, weight.shape, bias.shape);
            return Err(KernelError::Graph(reason));
        }
        let scale = if self.types == Types::Quantized {
            let scale = run.input(3)?;
            if scale.shape != [1] {
                let reason =
                    format!("the scale of what comes out has the shape {:?}, and has to have [1]", scale.shape);
                return Err(KernelError::Graph(reason));
            }
            scale.data
        } else {
            ptr::null()
        };
        let out = run.output(0, [tokens, outputs])?;
        let linear = Linear {
            types: self.types,
            gelu: self.gelu,
            factor: self.factor,
            inputs,
            outputs,
            weight: weight.data,
            bias: bias.data,
            scale,
        };
        // SAFETY: shapes were looked at above, and ONNX Runtime aligns what it allocates to 256 bytes.
        unsafe { Device::here()?.products.run(&linear, tokens, states.data, out, run.lane()?) }
    }
}
