//! Matrix products in f32, over the `gemm` crate.
//!
//! Views carry their slice, so that a product checks once that nothing lies outside. The order of summation
//! depends on the shapes only, not on the number of threads.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

/// A matrix that is read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Matrix<'a> {
        Matrix { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Some of the columns.
    pub(crate) fn columns(self, first: usize, count: usize) -> Matrix<'a> {
        Matrix { data: &self.data[(first * self.col_stride).min(self.data.len())..], cols: count, ..self }
    }

    /// The transpose.
    pub(crate) fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// The elements that a strided matrix spans.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

/// A row-major matrix that is written. Several may interleave in one buffer (column ranges of one tile), so
/// it holds an address.
pub(crate) struct MatrixMut<'a> {
    address: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    life: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for exclusive access to its elements, as `&mut [f32]` does.
unsafe impl Send for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// Over a slice.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatrixMut<'a> {
        let data = &mut data[..span(rows, cols, row_stride, 1)];
        MatrixMut { address: data.as_mut_ptr(), rows, cols, row_stride, life: std::marker::PhantomData }
    }

    /// The matrix cut into ranges of `width` columns, left to right; the last may be narrower.
    pub(crate) fn column_ranges(self, width: usize) -> Vec<(usize, MatrixMut<'a>)> {
        (0..self.cols)
            .step_by(width.max(1))
            .map(|first| {
                let range = MatrixMut {
                    // SAFETY: column `first` of row 0 lies inside the matrix, or the matrix has no rows and
                    // the address is never used; `wrapping_add` needs neither.
                    address: self.address.wrapping_add(first),
                    rows: self.rows,
                    cols: width.min(self.cols - first),
                    row_stride: self.row_stride,
                    life: std::marker::PhantomData,
                };
                (first, range)
            })
            .collect()
    }

    /// Part of a row.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: the row lies inside the matrix, to which this is the exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.address.add(row * self.row_stride), self.cols) }
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
}

/// How a product uses the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// The rayon pool.
    All,
}

/// `dst = lhs rhs`, or `dst += lhs rhs` under `accumulate`; what `dst` held before is not read otherwise.
pub(crate) fn product(
    dst: MatrixMut<'_>,
    accumulate: bool,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    threads: Threads,
) {
    assert!(dst.rows == lhs.rows && dst.cols == rhs.cols && lhs.cols == rhs.rows, "shapes of a product");
    let left = &lhs.data[..span(lhs.rows, lhs.cols, lhs.row_stride, lhs.col_stride)];
    let right = &rhs.data[..span(rhs.rows, rhs.cols, rhs.row_stride, rhs.col_stride)];
    if dst.rows == 0 || dst.cols == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: both operands lie inside their slices (just sliced to their spans); `dst` stands for exclusive
    // access to its elements, which are distinct because its rows do not overlap (`row_stride >= cols` by
    // construction).
    unsafe {
        // The crate's kernels store columns: the transposed product, rhs^T lhs^T, fills dst row by row.
        get_gemm_fn()(
            dst.cols,
            dst.rows,
            lhs.cols,
            dst.address,
            dst.row_stride as isize,
            1,
            accumulate,
            right.as_ptr(),
            rhs.row_stride as isize,
            rhs.col_stride as isize,
            left.as_ptr(),
            lhs.row_stride as isize,
            lhs.col_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| ((i.wrapping_mul(2654435761) ^ seed) >> 8) as f32 / 8388608.0 - 1.0)
            .collect()
    }

    #[test]
    fn a_product_has_the_same_bits_whatever_the_number_of_threads() {
        let (m, n, k) = (67, 301, 513);
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![f32::NAN; m * n];
            let lhs = Matrix::new(&a, m, k, k);
            let rhs = Matrix::new(&b, n, k, k).transposed();
            pool.install(|| product(MatrixMut::new(&mut out, m, n, n), false, lhs, rhs, Threads::All));
            out
        };
        let (one, three) = (run(1), run(3));
        assert_eq!(one, three);
        let exact: f64 = (0..k).map(|at| f64::from(a[5 * k + at]) * f64::from(b[7 * k + at])).sum();
        assert!((f64::from(one[5 * n + 7]) - exact).abs() < 1e-4);
    }

    #[test]
    fn accumulation_adds_and_overwriting_ignores_what_was_there() {
        let (a, b) = ([1.0f32, 2.0], [3.0f32, 4.0]);
        let mut out = [f32::NAN];
        let (lhs, rhs) = (Matrix::new(&a, 1, 2, 2), Matrix::new(&b, 2, 1, 1));
        product(MatrixMut::new(&mut out, 1, 1, 1), false, lhs, rhs, Threads::One);
        assert_eq!(out, [11.0]);
        product(MatrixMut::new(&mut out, 1, 1, 1), true, lhs, rhs, Threads::One);
        assert_eq!(out, [22.0]);
    }
}
