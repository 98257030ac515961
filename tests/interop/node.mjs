// Questions come as JSON on the standard input, answers go as JSON to the standard output.
import { readFileSync } from "node:fs";
import { env } from "@huggingface/transformers";
import { answers } from "./answers.mjs";

env.allowRemoteModels = false;
env.localModelPath = process.argv[2];
const { questions, options } = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await answers(questions, options)));
