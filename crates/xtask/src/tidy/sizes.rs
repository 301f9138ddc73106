//! Lengths of files and functions: reported, never a failure.
//!
//! The trees that people admire have a median function of 5-7 lines, a 90th percentile of 21-32 and under 2.5 % of
//! functions over 70 lines. Ours is compared with that, so that drift is seen while it is small.

use super::source::Source;

const FILE_LINES_REPORTED: usize = 1_000;
const FUNCTION_LINES_REPORTED: usize = 70;

pub fn report(sources: &[Source]) {
    for source in sources.iter().filter(|source| source.lines > FILE_LINES_REPORTED) {
        println!("note: {}: {} lines; which noun wants out?", source.path.display(), source.lines);
    }
    for source in sources {
        for function in source.functions.iter().filter(|function| function.lines > FUNCTION_LINES_REPORTED) {
            println!(
                "note: {}:{}: {} has {} lines",
                source.path.display(),
                function.line,
                function.name,
                function.lines
            );
        }
    }
    let functions =
        sorted(sources.iter().flat_map(|source| source.functions.iter().map(|function| function.lines)));
    let files = sorted(sources.iter().map(|source| source.lines));
    let long = functions.iter().filter(|lines| **lines > FUNCTION_LINES_REPORTED).count();
    println!(
        "functions: {}, median {} lines, 90th percentile {}, {:.1} % over {FUNCTION_LINES_REPORTED}; files: {}, median {} lines",
        functions.len(),
        percentile(&functions, 50),
        percentile(&functions, 90),
        100.0 * long as f64 / functions.len().max(1) as f64,
        files.len(),
        percentile(&files, 50),
    );
}

fn sorted(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable();
    lengths
}

/// Nearest-rank percentile of sorted lengths; 0 of none.
fn percentile(lengths: &[usize], percent: usize) -> usize {
    let rank = (lengths.len() * percent).div_ceil(100).max(1);
    lengths.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let lengths: Vec<usize> = (1..=10).collect();
        assert_eq!((percentile(&lengths, 50), percentile(&lengths, 90), percentile(&[], 50)), (5, 9, 0));
    }
}
