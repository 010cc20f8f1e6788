//! `muster crd`: the CustomResourceDefinitions, generated from the types that the program itself uses.
use super::Outcome;
use super::output::line;
use crate::runtime::files::{Access, write_atomic};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct CrdCommand {
    /// Write one file per kind into this directory instead of printing all
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// As templates of the Helm chart: kept when the release is uninstalled
    #[arg(long)]
    chart: bool,
}

impl CrdCommand {
    pub fn run(self) -> Outcome {
        let mut files = muster_api::crd_yaml()?;
        if self.chart {
            files.iter_mut().for_each(|file| file.text = template(&file.text));
        }
        match self.out {
            Some(dir) => {
                std::fs::create_dir_all(&dir)?;
                for file in files {
                    write_atomic(&dir.join(&file.name), file.text.as_bytes(), Access::Public)?;
                }
            }
            None => {
                for file in files {
                    line(format_args!("---\n{}", file.text.trim_end()))?;
                }
            }
        }
        Ok(0)
    }
}

/// Helm neither upgrades nor removes what stands in a chart's folder `crds`, so they are templates; removing one would remove
/// every object of its kind, so Helm is told to leave them.
fn template(text: &str) -> String {
    let kept =
        text.replacen("\nmetadata:\n", "\nmetadata:\n  annotations:\n    helm.sh/resource-policy: keep\n", 1);
    format!("{{{{- if .Values.crds.install }}}}\n{kept}{{{{- end }}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make generate` writes these files.
    #[test]
    fn the_charts_files_are_what_the_code_says() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/muster/templates/crds/");
        for file in muster_api::crd_yaml().unwrap() {
            assert!(!file.text.contains("{{"), "{}: Helm would read it as an action", file.name);
            let committed = std::fs::read_to_string(format!("{folder}{}", file.name)).unwrap();
            assert!(committed == template(&file.text), "{} is out of date: run `make generate`", file.name);
            let inner =
                committed.lines().filter(|line| !line.starts_with("{{-")).collect::<Vec<_>>().join("\n");
            let object: serde_json::Value = serde_saphyr::from_str(&inner).unwrap();
            assert_eq!(object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{}", file.name);
        }
    }
}
