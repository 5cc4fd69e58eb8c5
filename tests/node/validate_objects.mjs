// Reads Kubernetes objects from stdin (a JSON list) and writes for each what its schema has against it, or null.
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import * as core from "kubernetes-models/v1";

let text = "";
for await (const part of process.stdin) text += part;

const said = JSON.parse(text).map((object) => {
  const Kind = { v1: core, "monitoring.coreos.com/v1": operator }[object.apiVersion]?.[object.kind];
  if (Kind === undefined) return `unknown kind ${object.apiVersion} ${object.kind}`;
  try {
    new Kind(object).validate();
    return null;
  } catch (error) {
    return String(error);
  }
});
process.stdout.write(JSON.stringify(said));
