//! Required values: all of them, or none.

/// A tuple of required values; see [`Loader::finish`](super::Loader::finish).
pub trait Required {
    /// The values without their options.
    type Values;

    /// All values, when all are there.
    fn all(self) -> Option<Self::Values>;
}

macro_rules! required_tuple {
    ($($name:ident),*) => {
        impl<$($name),*> Required for ($(Option<$name>,)*) {
            type Values = ($($name,)*);

            #[expect(non_snake_case, reason = "the names of the type parameters")]
            fn all(self) -> Option<Self::Values> {
                let ($($name,)*) = self;
                Some(($($name?,)*))
            }
        }
    };
}

impl Required for () {
    type Values = ();

    fn all(self) -> Option<Self::Values> {
        Some(())
    }
}

required_tuple!(A);
required_tuple!(A, B);
required_tuple!(A, B, C);
required_tuple!(A, B, C, D);
required_tuple!(A, B, C, D, E);
required_tuple!(A, B, C, D, E, F);
