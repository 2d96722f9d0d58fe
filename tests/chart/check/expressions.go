package main

import (
	"errors"
	"fmt"

	admission "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The oldest API servers on which each kind is installed; an expression must be theirs too.
var (
	webhookVersion = version.MajorMinor(1, 28)
	guardVersion   = version.MajorMinor(1, 32)
	policyVersion  = version.MajorMinor(1, 35) // what 1.36 still promises to be understood after a downgrade
)

// Both policies that do the injector's work have this name.
const injectorPolicy = "keyward-injector"

// compiled is a policy as the API server holds it.
type compiled struct {
	compiler  *plugincel.CompositedCompiler
	matcher   matchconditions.Matcher
	patchers  []patch.Patcher
	validator validating.Validator
}

func newCompiler(at *version.Version) (*plugincel.CompositedCompiler, error) {
	return plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(at))
}

var options = plugincel.OptionalVariableDeclarations{HasAuthorizer: true}

// variables compiles variables in their order, each seeing those before it.
func variables(compiler *plugincel.CompositedCompiler, all []admission.Variable) error {
	var problems []error
	for _, variable := range all {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: variable.Name, Expression: variable.Expression}, options, environment.NewExpressions)
		if result.Error != nil {
			problems = append(problems, fmt.Errorf("variable %s: %w", variable.Name, result.Error))
		}
	}
	return errors.Join(problems...)
}

func matcher(compiler *plugincel.CompositedCompiler, conditions []admission.MatchCondition, name string) (matchconditions.Matcher, error) {
	accessors := make([]plugincel.ExpressionAccessor, len(conditions))
	for i := range conditions {
		accessors[i] = (*matchconditions.MatchCondition)(&conditions[i])
	}
	evaluator := compiler.CompileCondition(accessors, options, environment.NewExpressions)
	fail := admission.Fail
	return matchconditions.NewMatcher(evaluator, &fail, "policy", "admit", name), errors.Join(evaluator.CompilationErrors()...)
}

func compileMutating(policy *admission.MutatingAdmissionPolicy) (compiled, error) {
	compiler, err := newCompiler(policyVersion)
	if err != nil {
		return compiled{}, err
	}
	problems := []error{variables(compiler, policy.Spec.Variables)}
	match, err := matcher(compiler, policy.Spec.MatchConditions, policy.Name)
	problems = append(problems, err)
	patching := options
	patching.HasPatchTypes = true
	var patchers []patch.Patcher
	for _, mutation := range policy.Spec.Mutations {
		evaluator := compiler.CompileMutatingEvaluator(&patch.JSONPatchCondition{Expression: mutation.JSONPatch.Expression}, patching, environment.NewExpressions)
		problems = append(problems, evaluator.CompilationErrors()...)
		patchers = append(patchers, patch.NewJSONPatcher(evaluator))
	}
	return compiled{compiler: compiler, matcher: match, patchers: patchers}, errors.Join(problems...)
}

func compileValidating(policy *admission.ValidatingAdmissionPolicy) (compiled, error) {
	at := guardVersion
	if policy.Name == injectorPolicy {
		at = policyVersion
	}
	compiler, err := newCompiler(at)
	if err != nil {
		return compiled{}, err
	}
	problems := []error{variables(compiler, policy.Spec.Variables)}
	match, err := matcher(compiler, policy.Spec.MatchConditions, policy.Name)
	problems = append(problems, err)
	var conditions, messages []plugincel.ExpressionAccessor
	for _, validation := range policy.Spec.Validations {
		conditions = append(conditions, &validating.ValidationCondition{Expression: validation.Expression, Message: validation.Message, Reason: validation.Reason})
		// An empty slot keeps conditions and messages in step, as in the API server.
		var message plugincel.ExpressionAccessor
		if validation.MessageExpression != "" {
			message = &validating.MessageExpressionCondition{MessageExpression: validation.MessageExpression}
		}
		messages = append(messages, message)
	}
	validations := compiler.CompileCondition(conditions, options, environment.NewExpressions)
	texts := compiler.CompileCondition(messages, plugincel.OptionalVariableDeclarations{}, environment.NewExpressions)
	problems = append(problems, validations.CompilationErrors()...)
	problems = append(problems, texts.CompilationErrors()...)
	none := compiler.CompileCondition(nil, options, environment.NewExpressions)
	return compiled{compiler: compiler, validator: validating.NewValidator(validations, match, none, texts, policy.Spec.FailurePolicy, nil)}, errors.Join(problems...)
}

// expressions compiles whatever CEL an object holds.
func expressions(object runtime.Object) error {
	switch object := object.(type) {
	case *admission.MutatingAdmissionPolicy:
		_, err := compileMutating(object)
		return err
	case *admission.ValidatingAdmissionPolicy:
		_, err := compileValidating(object)
		return err
	case *admission.MutatingWebhookConfiguration:
		var problems []error
		for _, webhook := range object.Webhooks {
			compiler, err := newCompiler(webhookVersion)
			if err != nil {
				return err
			}
			_, err = matcher(compiler, webhook.MatchConditions, webhook.Name)
			problems = append(problems, err)
		}
		return errors.Join(problems...)
	}
	return nil
}
