//! How alike two lists of vectors are.

/// The mean cosine of the vectors of the same texts; `None` if there are none, or they do not go together.
#[must_use]
pub fn mean_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> Option<f64> {
    let fits = a.len() == b.len() && !a.is_empty() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
    fits.then(|| a.iter().zip(b).map(|(a, b)| cosine(a, b)).sum::<f64>() / a.len() as f64)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_texts() {
        let a = [vec![1.0, 0.0], vec![0.0, 2.0]];
        let b = [vec![3.0, 0.0], vec![1.0, 0.0]];
        assert_eq!(mean_cosine(&a, &b), Some(0.5));
        assert_eq!(mean_cosine(&a, &b[..1]), None);
        assert_eq!(mean_cosine(&[], &[]), None);
        assert_eq!(mean_cosine(&[vec![1.0]], &[vec![1.0, 0.0]]), None, "other dimensions are another space");
    }
}
