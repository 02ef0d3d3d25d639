//! The vectors of the windows of a text -> one.

use crate::row::Vector;

/// By how much the length of a vector may differ from 1: those of half precision do.
const TOLERANCE: f64 = 0.01;

/// The mean, each weighted by its tokens; brought to unit length if all of them have it. `None` if there are none.
pub(crate) fn mean(vectors: Vec<Vector>) -> Option<Vector> {
    if vectors.len() < 2 {
        return vectors.into_iter().next();
    }
    let mut sum = vec![0.0; vectors[0].values.len()];
    for vector in &vectors {
        let weight = f64::from(vector.tokens.max(1));
        sum.iter_mut().zip(&vector.values).for_each(|(sum, value)| *sum += weight * f64::from(*value));
    }
    let all_unit = vectors.iter().all(|v| (length(v.values.iter().map(|x| f64::from(*x))) - 1.0).abs() < TOLERANCE);
    let weights: f64 = vectors.iter().map(|vector| f64::from(vector.tokens.max(1))).sum();
    let scale = if all_unit { length(sum.iter().copied()) } else { weights };
    // Opposite vectors have none: theirs stays as it is.
    let scale = if scale > 0.0 { scale } else { 1.0 };
    Some(Vector {
        values: sum.into_iter().map(|value| (value / scale) as f32).collect(),
        tokens: vectors.iter().fold(0, |sum, vector| sum.saturating_add(vector.tokens)),
        truncated: vectors.iter().any(|vector| vector.truncated),
        window: None,
    })
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Window;

    fn vector(values: &[f32], tokens: u32) -> Vector {
        let window = Some(Window { index: 0, start: 0, end: 1 });
        Vector { values: values.to_vec(), tokens, truncated: false, window }
    }

    #[test]
    fn tokens_weigh() {
        let all = mean(vec![vector(&[2.0, 0.0], 3), vector(&[0.0, 4.0], 1)]).unwrap();
        assert_eq!((all.values, all.tokens, all.window), (vec![1.5, 1.0], 4, None));
    }

    #[test]
    fn what_has_unit_length_keeps_it() {
        let all = mean(vec![vector(&[1.0, 0.0], 3), vector(&[0.0, 1.0], 4)]).unwrap();
        assert_eq!(all.values, [0.6, 0.8]);
        let none = mean(vec![vector(&[1.0, 0.0], 1), vector(&[-1.0, 0.0], 1)]).unwrap();
        assert_eq!(none.values, [0.0, 0.0]);
    }

    #[test]
    fn one_is_itself() {
        let one = vector(&[0.1, 0.2], 5);
        assert_eq!(mean(vec![one.clone()]), Some(one));
        assert_eq!(mean(Vec::new()), None);
    }
}
