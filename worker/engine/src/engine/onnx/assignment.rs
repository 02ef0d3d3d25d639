//! Which nodes of a graph run where, as ONNX Runtime has assigned them.

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char},
    ptr,
};

use ort::{AsPointer, session::Session};

/// A session records its assignment only with this.
pub(super) const RECORD: (&str, &str) = ("session.record_ep_graph_assignment_info", "1");

/// The number of nodes by provider, as ONNX Runtime calls it. `None` if ONNX Runtime does not tell.
pub(super) fn nodes(session: &Session) -> Option<BTreeMap<String, usize>> {
    let api = ort::api();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session lives, and the two pointers are to variables of the right types.
    let status = unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut subgraphs, &raw mut count) };
    // SAFETY: the status comes from the call above, and is used once.
    unsafe { ort::Error::result_from_status(status) }.ok()?;
    let mut nodes = BTreeMap::new();
    for i in 0..count {
        let (mut name, mut list, mut length): (*const c_char, _, _) = (ptr::null(), ptr::null(), 0);
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
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        *nodes.entry(name).or_default() += length;
    }
    Some(nodes)
}
