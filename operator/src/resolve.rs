//! From a TrainingJob to the resolved spec that is hashed into the training digest.
