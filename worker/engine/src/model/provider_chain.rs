//! Which graph of a version each provider of a chain runs. Pure.

use embed_schemas::{Artefact, Precision, model::GraphForm};

use crate::settings::Provider;

/// A provider, and what it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderGraph {
    /// The provider.
    pub provider: Provider,
    /// The graph.
    pub graph: Artefact,
    /// The same without padding, to be chosen run by run.
    pub packed: Option<Artefact>,
    /// What it runs if this cannot be loaded: the same precision without the worker's own operators, which are never needed.
    pub otherwise: Option<Box<Self>>,
}

impl ProviderGraph {
    /// Whether one of its graphs is made of the worker's own operators.
    #[must_use]
    pub fn has_kernels(&self) -> bool {
        [Some(&self.graph), self.packed.as_ref()].into_iter().flatten().any(|one| one.form == GraphForm::Kernels)
    }
}

/// A provider of a chain that does not run the variant, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The provider.
    pub provider: Provider,
    /// Why, for a person.
    pub reason: String,
}

/// The forms that a provider takes, the best first. Standard operators run everywhere, as fast as what ONNX Runtime fuses by itself.
const fn forms(provider: Provider) -> &'static [GraphForm] {
    match provider {
        Provider::Tensorrt | Provider::TensorrtRtx => &[GraphForm::Plain],
        Provider::Cuda | Provider::Cpu => &[GraphForm::Contrib, GraphForm::Plain],
        Provider::Openvino => &[GraphForm::Plain, GraphForm::Contrib],
    }
}

/// The graphs of a version that a provider is to choose from: those of the best form of which there are any. So what was made for
/// TensorRT is run elsewhere only where a version has nothing else, or by OpenVINO, which is as fast with it.
#[must_use]
pub fn artefacts_for(provider: Provider, artefacts: &[Artefact]) -> Vec<Artefact> {
    if provider == Provider::Openvino {
        return for_openvino(artefacts);
    }
    let of = |form: &GraphForm| artefacts.iter().filter(|one| one.form == *form).cloned().collect::<Vec<_>>();
    let mut found = forms(provider).iter().map(of).find(|found| !found.is_empty()).unwrap_or_default();
    if provider == Provider::Cuda {
        // Only with these operators it computes in FP8 what is faster so.
        let in_fp8 = |one: &&Artefact| one.form == GraphForm::Kernels && one.precision == Precision::Fp8;
        found.extend(artefacts.iter().find(in_fp8).cloned());
    }
    found
}

/// The graphs of standard operators, and the one in FP32 whatever it is made of. What that computes can be computed in BF16 as well: in BF16 there is no file
/// of its own.
fn for_openvino(artefacts: &[Artefact]) -> Vec<Artefact> {
    let is = |one: &Artefact, form: GraphForm| one.form == form && one.precision == Precision::Fp32;
    let fused = !artefacts.iter().any(|one| is(one, GraphForm::Plain));
    let runs = |one: &&Artefact| one.form == GraphForm::Plain || (fused && is(one, GraphForm::Contrib));
    let mut found: Vec<Artefact> = artefacts.iter().filter(runs).cloned().collect();
    let fp32 = found.iter().find(|one| one.precision == Precision::Fp32).cloned();
    found.extend(fp32.map(|fp32| Artefact { precision: Precision::Bf16, ..fp32 }));
    found
}

/// What a provider runs instead of a precision that another one was to run, the best first: all precisions of a version
/// have the same embedding space.
const fn instead(provider: Provider, wanted: Precision) -> [Precision; 4] {
    use Precision::{Bf16, Fp8, Fp16, Fp32, Int8};
    match (provider, wanted) {
        // What is left of FP8 and INT8 on the CUDA provider is no faster than FP16.
        (Provider::Cuda, Fp32) => [Fp32, Fp16, Int8, Fp8],
        (Provider::Cuda, _) => [Fp16, Fp32, Int8, Fp8],
        // The processor computes FP16 slower than FP32.
        (Provider::Openvino | Provider::Cpu, Int8 | Fp8) => [Int8, Fp32, Fp16, Fp8],
        (Provider::Openvino, Bf16) => [Bf16, Fp32, Int8, Fp16],
        (Provider::Openvino | Provider::Cpu, _) => [Fp32, Int8, Fp16, Fp8],
        (_, Fp32) => [Fp32, Fp16, Fp8, Int8],
        (_, Fp16 | Bf16) => [Fp16, Fp32, Fp8, Int8],
        (_, Fp8) => [Fp8, Fp16, Int8, Fp32],
        (_, Int8) => [Int8, Fp16, Fp8, Fp32],
    }
}

/// The chain of a variant: what each provider runs, and which have nothing to run. The first provider runs the precision
/// that is wanted, or the version's first, or the first that it has; those behind it the nearest one that suits them. `measures`: the fastest is to be
/// taken, so all of them run what the first does.
pub(super) fn chain(
    providers: &[Provider],
    measures: bool,
    wanted: Option<Precision>,
    artefacts: &[Artefact],
    packed: bool,
) -> (Vec<ProviderGraph>, Vec<Skipped>) {
    let (mut links, mut skipped) = (Vec::<ProviderGraph>::new(), Vec::new());
    let mut wanted = wanted;
    for (i, provider) in providers.iter().enumerate() {
        let all = artefacts_for(*provider, artefacts);
        let of_form = || all.iter();
        let graph = match wanted {
            None => {
                let first = artefacts.first().map(|one| one.precision);
                of_form().find(|one| Some(one.precision) == first).or_else(|| of_form().next())
            }
            Some(precision) if i == 0 || measures => of_form().find(|one| one.precision == precision),
            Some(precision) => {
                let exact = instead(*provider, precision).into_iter();
                exact.filter_map(|precision| of_form().find(|one| one.precision == precision)).next()
            }
        };
        let Some(graph) = graph else {
            let known: Vec<&str> = of_form().map(|one| one.precision.as_str()).collect();
            let precision = wanted.map_or_else(String::new, |wanted| format!(" {wanted}"));
            let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let forms: Vec<&str> = forms(*provider).iter().copied().map(name).collect();
            let reason = format!("the version has no{precision} graph for it ({} form: {has})", forms.join(" or "));
            skipped.push(Skipped { provider: *provider, reason });
            continue;
        };
        wanted = wanted.or(Some(graph.precision));
        links.push(link(*provider, graph, artefacts, packed));
    }
    if measures && !links.is_empty() {
        // Nobody has asked for them.
        skipped.clear();
    }
    (links, skipped)
}

/// A provider with a graph, and what there is of the same without padding, if that is allowed.
fn link(provider: Provider, graph: &Artefact, artefacts: &[Artefact], packed: bool) -> ProviderGraph {
    let of = |form: GraphForm| {
        let found = artefacts.iter().find(|one| one.form == form && one.precision == graph.precision);
        found.filter(|_| packed && provider == Provider::Cuda && graph.form != GraphForm::Kernels).cloned()
    };
    let plain = ProviderGraph { provider, graph: graph.clone(), packed: of(GraphForm::Packed), otherwise: None };
    match of(GraphForm::Kernels) {
        None => plain,
        kernels => ProviderGraph { packed: kernels, otherwise: Some(Box::new(plain.clone())), ..plain },
    }
}

/// A form's name, as in metadata.
pub(super) const fn name(form: GraphForm) -> &'static str {
    match form {
        GraphForm::Contrib => "contrib",
        GraphForm::Plain => "plain",
        GraphForm::Packed => "packed",
        GraphForm::Kernels => "kernels",
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::model::FileRef;

    use super::*;
    use GraphForm::{Contrib, Kernels, Packed, Plain};
    use Precision::{Bf16, Fp8, Fp16, Fp32, Int8};
    use Provider::{Cpu, Cuda, Openvino, Tensorrt};

    fn artefacts(all: &[(Precision, GraphForm)]) -> Vec<Artefact> {
        let one = |(precision, form): &(Precision, GraphForm)| Artefact {
            precision: *precision,
            form: *form,
            file: FileRef { file: format!("{precision}-{}.onnx", name(*form)), bytes: 1, sha256: String::new() },
            quantization: None,
            performance: None,
            validation: None,
        };
        all.iter().map(one).collect()
    }

    fn all() -> Vec<Artefact> {
        artefacts(&[(Fp32, Contrib), (Fp16, Contrib), (Int8, Contrib), (Fp16, Plain), (Fp8, Plain), (Fp16, Packed)])
    }

    fn files(providers: &[Provider], wanted: Option<Precision>) -> Vec<String> {
        let (links, skipped) = chain(providers, false, wanted, &all(), true);
        assert!(skipped.is_empty(), "{skipped:?}");
        links.into_iter().map(|link| link.graph.file.file).collect()
    }

    #[test]
    fn each_provider_gets_the_form_it_takes() {
        let chain = [Tensorrt, Cuda, Cpu];
        assert_eq!(files(&chain, Some(Fp8)), ["fp8-plain.onnx", "fp16-contrib.onnx", "int8-contrib.onnx"]);
        assert_eq!(files(&chain, Some(Fp16)), ["fp16-plain.onnx", "fp16-contrib.onnx", "fp32-contrib.onnx"]);
        assert_eq!(files(&[Cuda, Cpu], Some(Fp32)), ["fp32-contrib.onnx", "fp32-contrib.onnx"]);
    }

    #[test]
    fn without_a_precision_the_first_of_the_form_counts() {
        assert_eq!(files(&[Cpu], None), ["fp32-contrib.onnx"]);
        assert_eq!(files(&[Tensorrt, Cpu], None), ["fp16-plain.onnx", "fp32-contrib.onnx"]);
    }

    #[test]
    fn the_first_provider_runs_what_is_wanted_or_nothing() {
        let (links, skipped) = chain(&[Tensorrt, Cuda], false, Some(Int8), &all(), true);
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].provider, links[0].graph.precision), (Cuda, Fp16));
        assert!(skipped[0].reason.contains("no int8 graph for it (plain form: fp16, fp8)"), "{}", skipped[0].reason);
    }

    #[test]
    fn standard_operators_run_everywhere_if_there_is_nothing_else() {
        let plain = artefacts(&[(Fp32, Plain)]);
        for provider in [Cpu, Cuda, Tensorrt] {
            for wanted in [None, Some(Fp32)] {
                let (links, skipped) = chain(&[provider], false, wanted, &plain, true);
                assert_eq!(links[0].graph.file.file, "fp32-plain.onnx", "{provider}");
                assert!(skipped.is_empty());
            }
        }
        // What was made for TensorRT does not take the place of what is missing.
        let (links, skipped) = chain(&[Cpu], false, Some(Fp8), &all(), true);
        assert!(links.is_empty() && skipped[0].reason.contains("no fp8 graph for it"), "{skipped:?}");
        let (links, skipped) = chain(&[Cpu], false, None, &artefacts(&[(Fp16, Packed)]), true);
        assert!(links.is_empty() && skipped[0].reason.contains("(contrib or plain form: none)"), "{skipped:?}");
    }

    #[test]
    fn packed_graphs_are_for_cuda_at_the_same_precision() {
        let packed = |provider, precision, allowed| {
            chain(&[provider], false, Some(precision), &all(), allowed).0[0].packed.clone().map(|one| one.file.file)
        };
        assert_eq!(packed(Cuda, Fp16, true).as_deref(), Some("fp16-packed.onnx"));
        assert_eq!(packed(Cuda, Fp16, false), None);
        assert_eq!(packed(Cuda, Fp32, true), None);
        assert_eq!(packed(Cpu, Fp16, true), None);
    }

    #[test]
    fn own_operators_come_first_on_cuda_and_are_never_needed() {
        let version = artefacts(&[
            (Fp32, Contrib),
            (Fp16, Contrib),
            (Fp16, Packed),
            (Fp16, Kernels),
            (Fp8, Kernels),
            (Fp8, Plain),
        ]);
        let names = |one: &ProviderGraph| {
            (one.graph.file.file.clone(), one.packed.as_ref().map(|packed| packed.file.file.clone()))
        };
        let of = |provider, precision, allowed| {
            let (links, _) = chain(&[provider], false, Some(precision), &version, allowed);
            links.first().map(|one| (names(one), one.otherwise.as_deref().map(names), one.has_kernels()))
        };
        let pair = |graph: &str, packed: &str| (graph.to_owned(), Some(packed.to_owned()));
        let without = |graph: &str| (graph.to_owned(), None);
        let (kernels, packed) =
            (pair("fp16-contrib.onnx", "fp16-kernels.onnx"), pair("fp16-contrib.onnx", "fp16-packed.onnx"));
        assert_eq!(of(Cuda, Fp16, true), Some((kernels, Some(packed), true)));
        assert_eq!(of(Cuda, Fp16, false), Some((without("fp16-contrib.onnx"), None, false)));
        assert_eq!(of(Cuda, Fp8, true), Some((without("fp8-kernels.onnx"), None, true)));
        assert_eq!(of(Cuda, Fp32, true), Some((without("fp32-contrib.onnx"), None, false)));
        assert_eq!(of(Tensorrt, Fp8, true), Some((without("fp8-plain.onnx"), None, false)));
        assert_eq!(of(Cpu, Fp8, true), None);
        // Behind a provider that was to compute in FP8, FP16 is the nearest that every device has.
        let (links, _) = chain(&[Tensorrt, Cuda], false, Some(Fp8), &version, true);
        assert_eq!(links[1].graph.precision, Fp16);
    }

    #[test]
    fn openvino_takes_standard_operators_and_computes_fp32_in_bf16() {
        let version = artefacts(&[(Fp32, Contrib), (Int8, Contrib), (Fp16, Plain), (Int8, Plain), (Fp16, Packed)]);
        let runs = |providers: &[Provider], measures, wanted| {
            let (links, skipped) = chain(providers, measures, wanted, &version, true);
            let runs: Vec<_> = links.into_iter().map(|one| (one.graph.precision, one.graph.file.file)).collect();
            (runs, skipped.into_iter().map(|one| one.provider).collect::<Vec<_>>())
        };
        let file = |precision, name: &str| (precision, name.to_owned());
        let (fp32, int8) = (file(Fp32, "fp32-contrib.onnx"), file(Int8, "int8-plain.onnx"));
        let bf16 = file(Bf16, "fp32-contrib.onnx");
        let on_onnx_runtime = file(Int8, "int8-contrib.onnx");
        assert_eq!(runs(&[Openvino], false, None), (vec![fp32.clone()], vec![]));
        assert_eq!(runs(&[Openvino, Cpu], false, Some(Int8)), (vec![int8.clone(), on_onnx_runtime.clone()], vec![]));
        assert_eq!(runs(&[Openvino, Cpu], false, Some(Bf16)), (vec![bf16.clone(), fp32.clone()], vec![]));
        assert_eq!(runs(&[Cpu], false, Some(Bf16)), (vec![], vec![Cpu]));
        assert_eq!(runs(&[Cuda, Openvino], false, Some(Fp32)), (vec![fp32.clone(), fp32.clone()], vec![]));
        // To be measured against each other, they must compute the same.
        assert_eq!(runs(&[Openvino, Cpu], true, Some(Int8)), (vec![int8, on_onnx_runtime], vec![]));
        assert_eq!(runs(&[Openvino, Cpu], true, None), (vec![fp32.clone(), fp32.clone()], vec![]));
        assert_eq!(runs(&[Openvino, Cpu], true, Some(Bf16)), (vec![bf16], vec![]));
        assert_eq!(runs(&[Openvino, Cpu], true, Some(Fp8)), (vec![], vec![Openvino, Cpu]));
        let (links, _) = chain(&[Openvino], false, None, &artefacts(&[(Fp32, Plain), (Fp32, Contrib)]), true);
        assert_eq!(links[0].graph.file.file, "fp32-plain.onnx");
    }
}
