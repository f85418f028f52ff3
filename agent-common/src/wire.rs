//! Layout rules of everything that crosses from the kernel to userspace.
//!
//! The two sides are built by different compilers, so Rust's own layout is no contract. [`wire!`](crate::wire!) declares a
//! `repr(C)` struct of integers, fails the build when a field would need implicit padding (padding would also leak
//! kernel stack bytes), and, on the user side, gives it a safe decoder that checks the length.

/// Version of every layout in this crate; part of the record header, so that a foreign record is refused.
pub const LAYOUT: u8 = 2;

/// Kinds of ring-buffer records. Numbers are never reused.
pub mod kind {
    /// [`crate::tcp::FlowRecord`].
    pub const TCP_FLOW: u8 = 1;
    /// [`crate::drops::DropRecord`].
    pub const DROP: u8 = 2;
    /// Synthetic record of the ring benchmark: [`crate::account::SyntheticRecord`].
    pub const SYNTHETIC: u8 = 3;
    /// [`crate::dns::DnsRecord`].
    pub const DNS: u8 = 5;
    /// [`crate::path::RouteRecord`].
    pub const ROUTE: u8 = 6;
    /// [`crate::profile::StackHead`] and its frames.
    pub const STACK: u8 = 7;
}

/// A type that [`wire!`](crate::wire!) made: integers only, no padding, decodable from bytes.
pub trait Wire: Sized + Copy {
    /// Exact length in bytes.
    const SIZE: usize;
    /// Decodes from exactly [`Self::SIZE`] bytes; `None` if the length differs.
    #[cfg(feature = "user")]
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// The bytes as the kernel sees them.
    #[cfg(feature = "user")]
    fn encode(&self, out: &mut impl bytes::BufMut);
}

/// A field of a wire struct: an integer, an array of fields or another wire struct.
#[cfg(feature = "user")]
pub trait Field: Sized + Copy {
    /// Reads one field; the caller has checked that enough bytes remain.
    fn get(buf: &mut impl bytes::Buf) -> Self;
    /// Appends the field.
    fn put(&self, buf: &mut impl bytes::BufMut);
}

#[cfg(feature = "user")]
mod fields {
    use super::Field;
    use bytes::{Buf, BufMut};
    macro_rules! integers {
        ($($t:ty: $get:ident $put:ident),*) => {$(
            impl Field for $t {
                fn get(buf: &mut impl Buf) -> Self { buf.$get() }
                fn put(&self, buf: &mut impl BufMut) { buf.$put(*self) }
            }
        )*};
    }
    integers!(u8: get_u8 put_u8, u16: get_u16_ne put_u16_ne, u32: get_u32_ne put_u32_ne, u64: get_u64_ne put_u64_ne);
    impl<T: Field + Default, const N: usize> Field for [T; N] {
        fn get(buf: &mut impl Buf) -> Self {
            let mut out = [T::default(); N];
            for item in &mut out {
                *item = T::get(buf);
            }
            out
        }
        fn put(&self, buf: &mut impl BufMut) {
            for item in self {
                item.put(buf);
            }
        }
    }
}

/// Declares a wire struct; see the module documentation.
#[macro_export]
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }

        const _: () = assert!(
            ::core::mem::size_of::<$name>() == 0 $(+ ::core::mem::size_of::<$ty>())*,
            concat!(stringify!($name), " has implicit padding: order the fields by size or add an explicit pad")
        );

        impl $crate::wire::Wire for $name {
            const SIZE: usize = ::core::mem::size_of::<$name>();
            #[cfg(feature = "user")]
            fn decode(mut bytes: &[u8]) -> Option<Self> {
                if bytes.len() != Self::SIZE {
                    return None;
                }
                Some(<Self as $crate::wire::Field>::get(&mut bytes))
            }
            #[cfg(feature = "user")]
            fn encode(&self, out: &mut impl ::bytes::BufMut) {
                $crate::wire::Field::put(self, out)
            }
        }

        #[cfg(feature = "user")]
        impl $crate::wire::Field for $name {
            fn get(buf: &mut impl ::bytes::Buf) -> Self {
                Self { $($field: $crate::wire::Field::get(buf)),* }
            }
            fn put(&self, buf: &mut impl ::bytes::BufMut) {
                $($crate::wire::Field::put(&self.$field, buf);)*
            }
        }
    )*};
}

wire! {
    /// The first eight bytes of every ring-buffer record.
    pub struct Header {
        /// One of [`kind`].
        pub kind: u8,
        /// [`LAYOUT`] of the kernel side.
        pub layout: u8,
        /// Length of the whole record in bytes, this header included.
        pub len: u16,
        /// Index of the program that sent it ([`crate::account::program`]).
        pub program: u32,
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_and_a_wrong_length_does_not() {
        let header = Header {
            kind: kind::DROP,
            layout: LAYOUT,
            len: 96,
            program: 7,
        };
        let mut bytes = bytes::BytesMut::new();
        header.encode(&mut bytes);
        assert_eq!(bytes.len(), Header::SIZE);
        assert_eq!(Header::decode(&bytes), Some(header));
        for len in 0..Header::SIZE {
            assert_eq!(Header::decode(bytes.get(..len).unwrap()), None);
        }
        bytes.extend_from_slice(&[0]);
        assert_eq!(Header::decode(&bytes), None);
    }
}
