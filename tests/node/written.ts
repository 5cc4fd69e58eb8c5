// Grafana's types describe values in its memory; these describe the same values as JSON writes them.
import type { AnnotationQuery, FieldConfig, FieldConfigSource, MatcherConfig, Panel } from "@grafana/schema";

type IsAny<T> = 0 extends 1 & T ? true : false;

// An enum's member is written as its value: `${T}` of a string enum is the union of its values.
export type Written<T> = IsAny<T> extends true
  ? unknown
  : T extends string
    ? `${T}`
    : T extends readonly (infer Item)[]
      ? Written<Item>[]
      : T extends object
        ? { [Key in keyof T]: Written<T[Key]> }
        : T;

// The same with everything optional: what a panel's options leave out, its plugin fills with defaults.
export type Chosen<T> = IsAny<T> extends true
  ? unknown
  : T extends string
    ? `${T}`
    : T extends readonly (infer Item)[]
      ? Chosen<Item>[]
      : T extends object
        ? { [Key in keyof T]?: Chosen<T[Key]> }
        : T;

// The published Panel takes any `options` and any `custom`; here they are those of the panel's own plugin.
type Defaults<Custom> = Written<Omit<FieldConfig, "custom">> & { custom?: Chosen<Custom> };
type Property<Custom> = {
  id: Exclude<keyof FieldConfig, "custom"> | `custom.${keyof Custom & string}`;
  value?: unknown;
};
type Override<Custom> = { matcher: Written<MatcherConfig>; properties: Property<Custom>[] };

export type PanelOf<Options, Custom> = Written<Omit<Panel, "options" | "fieldConfig" | "targets">> & {
  options?: Chosen<Options>;
  fieldConfig?: Written<Omit<FieldConfigSource, "defaults" | "overrides">> & {
    defaults: Defaults<Custom>;
    overrides: Override<Custom>[];
  };
};

// What the published types leave out, from schema_check.py.
export type AnnotationOf<LeftOut> = Written<Omit<AnnotationQuery, "target">> & LeftOut;
export type QueryOf<Query, LeftOut> = Chosen<Query> & LeftOut;
