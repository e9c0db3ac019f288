//! CPU quantities of Kubernetes, as far as thread counts need them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity of CPUs as a number; `None` if it is no quantity. Decimal and binary suffixes as in Kubernetes' resource model.
pub fn cpus(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    if let Ok(plain) = text.parse::<f64>() {
        return plain.is_finite().then_some(plain);
    }
    let digits = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "Ki" => 1024.0,
        _ => return None,
    };
    number.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| n * factor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2", Some(2.0))]
    #[case("500m", Some(0.5))]
    #[case("1.5", Some(1.5))]
    #[case("1e1", Some(10.0))]
    #[case("1Ki", Some(1024.0))]
    #[case("", None)]
    #[case("m", None)]
    #[case("two", None)]
    #[case("inf", None)]
    fn reads_cpus(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(cpus(&Quantity(text.into())), expected);
    }
}
