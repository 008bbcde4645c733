//! What an error of each weight costs, from measurements of some of them.
//!
//! The error of a rounded weight is known from moments: the mean square of what it changes in the results of its
//! contraction. To second order the loss grows in proportion, but by how much depends on what comes after, which moments
//! don't tell. So groups of weights are rounded and the loss is measured: those of one role (all `q_proj`), those of one
//! layer, and all together. The weights' factors are those that explain the measurements, starting from equal ones, by
//! scaling the members of each measurement in turn until they fit (iterative proportional fitting; Deming & Stephan 1940).
//! If roles and layers are what is measured, a factor is the product of one for the role and one for the layer.

/// Rounds of scaling; they converge in a few.
const ROUNDS: usize = 60;

/// A measurement: these weights were rounded, and the loss grew by that much.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What was rounded, for people: a role, a layer.
    pub name: String,
    /// Indices of the weights.
    pub members: Vec<usize>,
    /// Nats per token.
    pub loss: f64,
}

/// For each weight, the loss in nats per unit of its error, given the errors that it had in the probes.
///
/// A weight that no probe rounded, or whose error was zero, gets the mean of all others. Losses below `least`, where
/// measurements are noise, count as `least`.
pub fn sensitivities(errors: &[f64], probes: &[Probe], least: f64) -> Vec<f64> {
    let mut factors = vec![1.0; errors.len()];
    let predicted = |factors: &[f64], probe: &Probe| probe.members.iter().map(|&i| factors[i] * errors[i]).sum::<f64>();
    // All weights start from a factor that explains all probes together, so that the order of probes matters little.
    let (measured, sum) =
        probes.iter().fold((0.0, 0.0), |(m, s), probe| (m + probe.loss.max(least), s + predicted(&factors, probe)));
    let mean = if sum > 0.0 { measured / sum } else { 0.0 };
    factors.fill(mean);
    for _ in 0..ROUNDS {
        for probe in probes {
            let found = predicted(&factors, probe);
            if found > 0.0 {
                let ratio = probe.loss.max(least) / found;
                probe.members.iter().for_each(|&i| factors[i] *= ratio);
            }
        }
    }
    let probed = |i: &usize| errors[*i] > 0.0 && probes.iter().any(|probe| probe.members.contains(i));
    (0..factors.len()).map(|i| if probed(&i) { factors[i] } else { mean }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(members: impl IntoIterator<Item = usize>, loss: f64) -> Probe {
        Probe { name: String::new(), members: members.into_iter().collect(), loss }
    }

    #[test]
    fn factors_of_roles_and_layers_are_found() {
        let (roles, layers) = ([0.5, 3.0, 1.0, 10.0], [1.0, 0.2, 4.0]);
        let (n, m) = (roles.len(), layers.len());
        let factor = |i: usize| roles[i % n] * layers[i / n];
        let errors: Vec<f64> = (0..n * m).map(|i| 0.1 + (i * 7 % 5) as f64).collect();
        let loss = |members: &[usize]| members.iter().map(|&i| factor(i) * errors[i]).sum::<f64>();
        let mut probes = Vec::new();
        for role in 0..n {
            let members: Vec<usize> = (0..m).map(|layer| layer * n + role).collect();
            probes.push(probe(members.clone(), loss(&members)));
        }
        for layer in 0..m {
            let members: Vec<usize> = (0..n).map(|role| layer * n + role).collect();
            probes.push(probe(members.clone(), loss(&members)));
        }
        for (i, found) in sensitivities(&errors, &probes, 0.0).iter().enumerate() {
            assert!((found / factor(i) - 1.0).abs() < 1e-6, "{i}: {found} {}", factor(i));
        }
    }

    #[test]
    fn what_is_not_measured_gets_the_mean_and_noise_is_not_believed() {
        let found = sensitivities(&[2.0, 0.0, 5.0], &[probe([0, 1], 4.0)], 0.0);
        assert_eq!(found, [2.0, 2.0, 2.0]);
        assert_eq!(sensitivities(&[2.0], &[probe([0], -1e-3)], 1e-4), [5e-5]);
        assert_eq!(sensitivities(&[0.0], &[], 0.0), [0.0]);
    }
}
