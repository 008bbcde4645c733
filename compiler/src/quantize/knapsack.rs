//! The multiple-choice knapsack: one option of each class, so that weights stay within a limit at the least price.
//!
//! Dynamic programming over the classes with bounds (Dyer, Riha & Walker 1995; Pisinger 1995): of all partial choices, those
//! are kept that no other beats in both weight and price and whose Lagrangian bound is below the best known choice. The
//! bound is the linear relaxation's: of each class the lower convex hull of its options, all hulls' edges by efficiency.
//! With a few hundred classes it leaves so little room that the result is exact as a rule; [`Solution::exact`] says so.

/// Partial choices that are kept from class to class.
const STATES: usize = 50_000;

/// One option of a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// What is limited; finite, not negative.
    pub weight: f64,
    /// What should be small; finite, not negative.
    pub price: f64,
}

/// One option of each class.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The index of the option in each class.
    pub chosen: Vec<usize>,
    /// Weights together.
    pub weight: f64,
    /// Prices together.
    pub price: f64,
    /// No choice within the limit has a price below this.
    pub bound: f64,
    /// Whether the search was complete: no choice is better.
    pub exact: bool,
}

/// No choice stays within the limit.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum KnapsackError {
    /// The least weights are too much already.
    #[error("the least possible is {least}, above the limit {limit}")]
    Limit {
        /// The least weights together.
        least: f64,
        /// The limit.
        limit: f64,
    },
    /// A class has nothing to choose from, or an option with a number that is negative or not finite.
    #[error("class {class} has no option, or one whose weight or price is negative or not finite")]
    Class {
        /// Its index.
        class: usize,
    },
}

/// Chooses an option of each class; weights together are at most `limit`.
///
/// # Errors
/// When no choice stays within the limit, and when a class is empty or has numbers that are none.
pub fn solve(classes: &[Vec<Item>], limit: f64) -> Result<Solution, KnapsackError> {
    let valid = |x: f64| x.is_finite() && x >= 0.0;
    for (class, options) in classes.iter().enumerate() {
        if options.is_empty() || !options.iter().all(|o| valid(o.weight) && valid(o.price)) {
            return Err(KnapsackError::Class { class });
        }
    }
    let fronts: Vec<Vec<Kept>> = classes.iter().map(|options| front(options)).collect();
    let suffixes = suffixes(&fronts);
    let all = &suffixes[0];
    // Sums in another order differ in their last bits.
    let slack = if limit.is_finite() { limit.abs() * 1e-12 } else { 0.0 };
    let limit = if limit.is_nan() { f64::NEG_INFINITY } else { limit };
    if all.weight > limit + slack {
        return Err(KnapsackError::Limit { least: all.weight, limit });
    }
    let bound = all.bound(limit + slack - all.weight);
    let mut search = Search { fronts: &fronts, suffixes: &suffixes, limit: limit + slack, exact: true };
    let greedy = search.greedy();
    let chosen = search.run(search.total(&greedy).price).unwrap_or(greedy);
    let total = search.total(&chosen);
    let chosen = chosen.iter().zip(&fronts).map(|(&at, front)| front[at].index).collect();
    Ok(Solution {
        chosen,
        weight: total.weight,
        price: total.price,
        bound: bound.min(total.price),
        exact: search.exact,
    })
}

/// An option that no other of its class beats.
#[derive(Clone, Copy, Debug)]
struct Kept {
    choice: Item,
    /// Its index among all options.
    index: usize,
}

/// The options by rising weight and falling price.
fn front(options: &[Item]) -> Vec<Kept> {
    let mut sorted: Vec<Kept> = options.iter().enumerate().map(|(index, &choice)| Kept { choice, index }).collect();
    sorted.sort_by(|a, b| a.choice.weight.total_cmp(&b.choice.weight).then(a.choice.price.total_cmp(&b.choice.price)));
    let mut front: Vec<Kept> = Vec::new();
    for kept in sorted {
        if front.last().is_none_or(|last| kept.choice.price < last.choice.price) {
            front.push(kept);
        }
    }
    front
}

/// An edge of a hull: this much more weight makes it this much cheaper.
#[derive(Clone, Copy, Debug)]
struct Edge {
    weight: f64,
    saves: f64,
    class: usize,
    /// The option at its end.
    to: usize,
}

/// The edges of the lower convex hull of a class, by falling efficiency.
fn hull(class: usize, front: &[Kept]) -> Vec<Edge> {
    let edge = |from: usize, to: usize| {
        let (a, b) = (front[from].choice, front[to].choice);
        Edge { weight: b.weight - a.weight, saves: a.price - b.price, class, to }
    };
    let mut corners: Vec<usize> = Vec::new();
    for at in 0..front.len() {
        while let [.., before, last] = corners[..] {
            let (first, second) = (edge(before, last), edge(last, at));
            if first.saves * second.weight > second.saves * first.weight {
                break;
            }
            corners.pop();
        }
        corners.push(at);
    }
    corners.windows(2).map(|pair| edge(pair[0], pair[1])).collect()
}

/// The classes from some one on, as far as bounds need them.
struct Suffix {
    /// Least weights together.
    weight: f64,
    /// Prices of the lightest options together.
    price: f64,
    /// Weight and savings of the edges up to each, by falling efficiency.
    sums: Vec<(f64, f64)>,
    edges: Vec<Edge>,
}

impl Suffix {
    /// The least price of the relaxation with that much more weight than the least.
    fn bound(&self, room: f64) -> f64 {
        let full = self.sums.partition_point(|&(weight, _)| weight <= room);
        let (weight, saves) = if full == 0 { (0.0, 0.0) } else { self.sums[full - 1] };
        let part = self.edges.get(full).map_or(0.0, |e| e.saves * ((room - weight) / e.weight).clamp(0.0, 1.0));
        self.price - saves - part
    }
}

fn suffixes(fronts: &[Vec<Kept>]) -> Vec<Suffix> {
    let mut edges: Vec<Edge> = fronts.iter().enumerate().flat_map(|(class, front)| hull(class, front)).collect();
    // An edge without weight would not be on a front.
    edges.sort_by(|a, b| (b.saves / b.weight).total_cmp(&(a.saves / a.weight)));
    let of = |first: usize| {
        let lightest = fronts[first..].iter().filter_map(|front| front.first());
        let (weight, price) = lightest.fold((0.0, 0.0), |(w, p), kept| (w + kept.choice.weight, p + kept.choice.price));
        let edges: Vec<Edge> = edges.iter().filter(|e| e.class >= first).copied().collect();
        let sums = edges.iter().scan((0.0, 0.0), |sum, e| {
            *sum = (sum.0 + e.weight, sum.1 + e.saves);
            Some(*sum)
        });
        Suffix { weight, price, sums: sums.collect(), edges }
    };
    (0..=fronts.len()).map(of).collect()
}

struct Search<'a> {
    fronts: &'a [Vec<Kept>],
    suffixes: &'a [Suffix],
    limit: f64,
    exact: bool,
}

/// A choice for the classes up to some one.
#[derive(Clone, Copy)]
struct State {
    weight: f64,
    price: f64,
    /// The last decision.
    at: usize,
}

impl Search<'_> {
    fn total(&self, chosen: &[usize]) -> Item {
        let chosen = chosen.iter().zip(self.fronts).map(|(&at, front)| front[at].choice);
        chosen.fold(Item { weight: 0.0, price: 0.0 }, |sum, c| Item {
            weight: sum.weight + c.weight,
            price: sum.price + c.price,
        })
    }

    /// The hulls' edges by efficiency, as far as they fit.
    fn greedy(&self) -> Vec<usize> {
        let mut chosen = vec![0; self.fronts.len()];
        let mut weight = self.suffixes[0].weight;
        for edge in &self.suffixes[0].edges {
            let front = &self.fronts[edge.class];
            let more = front[edge.to].choice.weight - front[chosen[edge.class]].choice.weight;
            if weight + more <= self.limit {
                (weight, chosen[edge.class]) = (weight + more, edge.to);
            }
        }
        chosen
    }

    /// The best choice whose price is below `known`.
    fn run(&mut self, known: f64) -> Option<Vec<usize>> {
        // (option, the decision before)
        let mut decisions: Vec<(usize, usize)> = vec![(0, 0)];
        let mut states = vec![State { weight: 0.0, price: 0.0, at: 0 }];
        // What is better by less than rounding is not better.
        let best = known - known.abs() * 1e-12;
        for (class, front) in self.fronts.iter().enumerate() {
            let rest = &self.suffixes[class + 1];
            let mut next: Vec<(f64, State, usize)> = Vec::new();
            for state in &states {
                for (at, kept) in front.iter().enumerate() {
                    let (weight, price) = (state.weight + kept.choice.weight, state.price + kept.choice.price);
                    let room = self.limit - weight - rest.weight;
                    if room < 0.0 {
                        break;
                    }
                    let bound = price + rest.bound(room);
                    if bound < best {
                        next.push((bound, State { weight, price, at: state.at }, at));
                    }
                }
            }
            next.sort_by(|a, b| a.1.weight.total_cmp(&b.1.weight).then(a.1.price.total_cmp(&b.1.price)));
            let mut least = f64::INFINITY;
            next.retain(|(_, state, _)| {
                let better = state.price < least;
                least = least.min(state.price);
                better
            });
            if next.len() > STATES {
                next.sort_by(|a, b| a.0.total_cmp(&b.0));
                next.truncate(STATES);
                self.exact = false;
            }
            states = next
                .into_iter()
                .map(|(_, state, at)| {
                    decisions.push((at, state.at));
                    State { at: decisions.len() - 1, ..state }
                })
                .collect();
        }
        let best = states.into_iter().min_by(|a, b| a.price.total_cmp(&b.price))?;
        let mut chosen = vec![0; self.fronts.len()];
        let mut at = best.at;
        for slot in chosen.iter_mut().rev() {
            (*slot, at) = decisions[at];
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn choice(weight: f64, price: f64) -> Item {
        Item { weight, price }
    }

    /// The least price of all choices within the limit.
    fn brute(classes: &[Vec<Item>], limit: f64) -> Option<f64> {
        let mut sums = vec![choice(0.0, 0.0)];
        for class in classes {
            sums = (sums.iter())
                .flat_map(|s| class.iter().map(move |c| choice(s.weight + c.weight, s.price + c.price)))
                .collect();
        }
        sums.iter().filter(|s| s.weight <= limit).map(|s| s.price).min_by(f64::total_cmp)
    }

    #[test]
    fn the_edge_that_does_not_fit_makes_room_for_another() {
        // By efficiency the first class would be taken, and nothing else would fit.
        let classes = [
            vec![choice(0.0, 10.0), choice(6.0, 0.0)],
            vec![choice(0.0, 8.0), choice(5.0, 0.0)],
            vec![choice(0.0, 8.0), choice(5.0, 0.0)],
        ];
        let solution = solve(&classes, 10.0).unwrap();
        assert_eq!((solution.chosen, solution.price, solution.exact), (vec![0, 1, 1], 10.0, true));
        assert!(solution.bound <= 10.0);
    }

    #[test]
    fn what_cannot_be_met_says_what_can() {
        let classes = [vec![choice(3.0, 1.0), choice(2.0, 5.0)], vec![choice(4.0, 0.0)]];
        assert_eq!(solve(&classes, 5.9), Err(KnapsackError::Limit { least: 6.0, limit: 5.9 }));
        assert_eq!(solve(&classes, 6.0).unwrap().chosen, [1, 0]);
        assert!(matches!(solve(&classes, f64::NAN), Err(KnapsackError::Limit { .. })));
        assert_eq!(solve(&[vec![]], 1.0), Err(KnapsackError::Class { class: 0 }));
        assert_eq!(solve(&[vec![choice(f64::NAN, 1.0)]], 1.0), Err(KnapsackError::Class { class: 0 }));
        assert_eq!(solve(&[], 0.0).unwrap().chosen, [0usize; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn no_choice_is_better(
            classes in proptest::collection::vec(
                proptest::collection::vec((0..30u32, 0..1000u32).prop_map(|(w, p)| choice(w.into(), f64::from(p) / 7.0)), 1..6),
                1..7,
            ),
            limit in 0..120u32,
        ) {
            let limit = f64::from(limit);
            match (solve(&classes, limit), brute(&classes, limit)) {
                (Ok(solution), Some(best)) => {
                    prop_assert!(solution.exact);
                    prop_assert!(solution.weight <= limit);
                    prop_assert!((solution.price - best).abs() <= 1e-9 * best.max(1.0), "{} {best}", solution.price);
                    prop_assert!(solution.bound <= best + 1e-9);
                    let sum: f64 = solution.chosen.iter().zip(&classes).map(|(&at, class)| class[at].price).sum();
                    prop_assert!((sum - solution.price).abs() <= 1e-9);
                }
                (Err(KnapsackError::Limit { .. }), None) => {}
                (solved, brute) => prop_assert!(false, "{solved:?} {brute:?}"),
            }
        }
    }

    #[test]
    fn hundreds_of_classes_are_solved_to_within_little_of_the_bound() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        // Errors that fall by four with each bit, of weights of several sizes, as formats have them.
        let classes: Vec<Vec<Item>> = (0..320)
            .map(|i| {
                let (size, scale) = ([1.0, 4.0, 14.0][i % 3] * 1e6, random());
                let bits = [4.25, 4.5, 5.0, 8.25, 9.0, 16.0];
                bits.iter().map(|b| choice(size * b, scale * size * 0.25f64.powf(b + 0.3 * random()))).collect()
            })
            .collect();
        let total: f64 = classes.iter().map(|c| c[2].weight).sum();
        let solution = solve(&classes, total * 1.01).unwrap();
        assert!(solution.weight <= total * 1.01);
        assert!(solution.price <= solution.bound * 1.0001, "{} {}", solution.price, solution.bound);
    }
}
