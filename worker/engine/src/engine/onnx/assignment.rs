//! Which nodes of a graph run where, as ONNX Runtime has assigned them.

use std::{
    ffi::{CStr, c_char},
    ptr,
};

use ort::{AsPointer, session::Session};

/// A session records its assignment only with this.
pub(super) const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

/// Operators that do the work of a graph: products, and what goes over all activations. What is left are sums, and shapes, which ONNX Runtime
/// computes on the processor on purpose.
const WORK: [&str; 38] = [
    "AddNorm",
    "AddNormQuantize",
    "Attend",
    "AttendQuantize",
    "Attention",
    "BiasGelu",
    "DequantizeLinear",
    "DynamicQuantizeMatMul",
    "Einsum",
    "Embed",
    "EmbedLayerNormalization",
    "EmbedQuantize",
    "Erf",
    "FastGelu",
    "FusedGemm",
    "FusedMatMul",
    "Gelu",
    "Gemm",
    "GroupQueryAttention",
    "LayerNormalization",
    "Linear",
    "LinearFromQuantized",
    "LinearQuantized",
    "MatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "MultiHeadAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "QAttention",
    "QGemm",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "RotaryEmbedding",
    "SkipLayerNormalization",
    "Softmax",
];

/// How many nodes of a graph run where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Assignment {
    /// All of them.
    pub nodes: usize,
    /// Those that another provider than the wanted one runs.
    pub elsewhere: usize,
    /// Those of them that do the graph's work: products, attention, norms, quantization.
    pub work_elsewhere: usize,
}

impl Assignment {
    /// Of two graphs, the one of which more is elsewhere.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let key = |one: &Self| (one.work_elsewhere, one.elsewhere);
        std::cmp::max_by_key(self, other, key)
    }

    fn count(&mut self, here: bool, operator: &str) {
        self.nodes += 1;
        self.elsewhere += usize::from(!here);
        self.work_elsewhere += usize::from(!here && WORK.contains(&operator));
    }
}

/// Counts the nodes, the wanted provider being the one whose name, as ONNX Runtime has it, begins so. `None` if ONNX Runtime does not tell.
pub(super) fn of(session: &Session, wanted: &str) -> Option<Assignment> {
    let api = ort::api();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session lives, and the two pointers are to variables of the right types.
    let status = unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut subgraphs, &raw mut count) };
    // SAFETY: the status comes from the call above, and is used once.
    unsafe { ort::Error::result_from_status(status) }.ok()?;
    let mut assignment = Assignment::default();
    for i in 0..count {
        let (mut name, mut list, mut length): (*const c_char, *const *const _, _) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the array has `count` elements, which belong to the session, as do names and lists.
        let (named, listed) = unsafe {
            let subgraph = *subgraphs.add(i);
            (
                (api.EpAssignedSubgraph_GetEpName)(subgraph, &raw mut name),
                (api.EpAssignedSubgraph_GetNodes)(subgraph, &raw mut list, &raw mut length),
            )
        };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(named) }.ok()?;
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(listed) }.ok()?;
        // SAFETY: the call that succeeded has set the pointer to a string that the session holds.
        let here = unsafe { CStr::from_ptr(name) }.to_string_lossy().starts_with(wanted);
        for node in 0..length {
            let mut operator: *const c_char = ptr::null();
            // SAFETY: the list has `length` nodes, which belong to the session.
            let told = unsafe { (api.EpAssignedNode_GetOperatorType)(*list.add(node), &raw mut operator) };
            // SAFETY: the status comes from the call above, and is used once.
            unsafe { ort::Error::result_from_status(told) }.ok()?;
            // SAFETY: the call that succeeded has set the pointer to a string that the session holds.
            assignment.count(here, &unsafe { CStr::from_ptr(operator) }.to_string_lossy());
        }
    }
    Some(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_elsewhere_are_counted() {
        let mut found = Assignment::default();
        for (here, operator) in [(true, "MatMul"), (false, "Shape"), (false, "MatMul"), (true, "Shape")] {
            found.count(here, operator);
        }
        assert_eq!(found, Assignment { nodes: 4, elsewhere: 2, work_elsewhere: 1 });
        let more = Assignment { nodes: 9, elsewhere: 5, work_elsewhere: 0 };
        assert_eq!((found.worse(more), more.worse(found)), (found, found));
    }
}
