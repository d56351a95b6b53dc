//! Typed rows: a key kind, its fields and the record it holds.

use bytes::Bytes;
use granary_raft::StateMachineError;
use granary_types::SlabId;
use prost::Message;

use super::{KeyField, Kind};

/// The key of a row of one kind.
pub(crate) trait RowKey: Sized + Clone + std::fmt::Debug {
    /// Its ordinal.
    const KIND: Kind;
    /// What stands in the row.
    type Value: Message + Default;

    /// The slab it stands in.
    fn slab(&self) -> SlabId;

    /// Appends the fields after slab and kind.
    fn write_fields(&self, out: &mut Vec<u8>);

    /// Reads the fields after slab and kind.
    fn read_fields(slab: SlabId, input: &mut &[u8]) -> Option<Self>;

    /// The whole key.
    fn encode(&self) -> Vec<u8> {
        let mut out = kind_prefix(self.slab(), Self::KIND);
        self.write_fields(&mut out);
        out
    }

    /// Reads a whole key.
    fn decode(bytes: &[u8]) -> Result<Self, StateMachineError> {
        let input = &mut &*bytes;
        let key = u32::read(input).and_then(|slab| {
            let (kind, rest) = input.split_first()?;
            *input = rest;
            if *kind != Self::KIND as u8 {
                return None;
            }
            Self::read_fields(SlabId(slab), input)
        });
        key.filter(|_| input.is_empty())
            .ok_or_else(|| StateMachineError::Corrupt {
                what: "a key of the metadata",
                reason: format!("not a {:?} key", Self::KIND),
            })
    }
}

/// What every key of a kind in a slab begins with.
pub(crate) fn kind_prefix(slab: SlabId, kind: Kind) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    slab.0.write(&mut out);
    out.push(kind as u8);
    out
}

/// Reads a record.
pub(crate) fn decode_value<M: Message + Default>(
    kind: Kind,
    bytes: Bytes,
) -> Result<M, StateMachineError> {
    M::decode(bytes).map_err(|error| StateMachineError::Corrupt {
        what: "a record of the metadata",
        reason: format!("{kind:?}: {error}"),
    })
}

/// Declares a key struct: slab first, then the fields in their order on disk.
macro_rules! row_key {
    ($(#[$doc:meta])* $name:ident($kind:ident) -> $value:ty { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name {
            pub(crate) slab: granary_types::SlabId,
            $($(#[$fdoc])* pub(crate) $field: $type,)*
        }

        impl $crate::keyspace::RowKey for $name {
            const KIND: $crate::keyspace::Kind = $crate::keyspace::Kind::$kind;
            type Value = $value;

            fn slab(&self) -> granary_types::SlabId {
                self.slab
            }

            fn write_fields(&self, _out: &mut Vec<u8>) {
                $($crate::keyspace::KeyField::write(&self.$field, _out);)*
            }

            fn read_fields(slab: granary_types::SlabId, _input: &mut &[u8]) -> Option<Self> {
                Some(Self { slab, $($field: <$type as $crate::keyspace::KeyField>::read(_input)?,)* })
            }
        }

        #[cfg(test)]
        impl $crate::keyspace::tests::Sample for $name {
            fn sample(source: &mut $crate::keyspace::tests::Source) -> Self {
                let slab = granary_types::SlabId(source.small());
                $(let $field = <$type as $crate::keyspace::tests::Sample>::sample(source);)*
                Self { slab, $($field,)* }
            }
        }
    };
}
pub(crate) use row_key;
