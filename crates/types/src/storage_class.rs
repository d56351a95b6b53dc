//! Closed sets of the OSS data model, in the API's own spelling.

/// A closed set with one wire spelling per value.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $number),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The API's spelling.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// Reads the API's spelling, exactly.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }

            /// The number that records carry; never reused.
            pub fn number(self) -> u32 {
                self as u32
            }

            /// Reads the number that a record carries.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

wire_enum!(
    /// Storage class of a bucket or an object (`x-oss-storage-class`).
    StorageClass {
        /// Hot data.
        Standard = 1 => "Standard",
        /// Infrequent access.
        Ia = 2 => "IA",
        /// Archive.
        Archive = 3 => "Archive",
        /// Cold archive.
        ColdArchive = 4 => "ColdArchive",
        /// Deep cold archive.
        DeepColdArchive = 5 => "DeepColdArchive",
    }
);

wire_enum!(
    /// Data redundancy type of a bucket (`DataRedundancyType`).
    Redundancy {
        /// Copies on several disks or nodes of one zone.
        Lrs = 1 => "LRS",
        /// Copies in three zones.
        Zrs = 2 => "ZRS",
    }
);

wire_enum!(
    /// Access control of a bucket (`x-oss-acl`).
    BucketAcl {
        /// The owner and whom the owner authorises.
        Private = 1 => "private",
        /// Anybody may read.
        PublicRead = 2 => "public-read",
        /// Anybody may read and write.
        PublicReadWrite = 3 => "public-read-write",
    }
);

wire_enum!(
    /// Access control of an object (`x-oss-object-acl`).
    ObjectAcl {
        /// As the bucket says.
        Default = 1 => "default",
        /// The owner and whom the owner authorises.
        Private = 2 => "private",
        /// Anybody may read.
        PublicRead = 3 => "public-read",
        /// Anybody may read and write.
        PublicReadWrite = 4 => "public-read-write",
    }
);

wire_enum!(
    /// Kind of an object (`x-oss-object-type`, `Type` in listings).
    ObjectType {
        /// Written in one piece.
        Normal = 1 => "Normal",
        /// Written in parts.
        Multipart = 2 => "Multipart",
        /// Written by appends.
        Appendable = 3 => "Appendable",
        /// A link to another key.
        Symlink = 4 => "Symlink",
        /// A directory, of a bucket whose keys are paths.
        Directory = 5 => "Directory",
    }
);
